"""What flows tell each other, and the registry, of a judged version and of a retraining: typed, with their JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from cascadexml.errors import DataError

Start = Literal["refit", "warm", "cold"]
"""How a challenger begins: at the champion, whose network stays as it is or trains on, or from the start."""


@dataclass(frozen=True)
class Outcome:
    """What became of a published version.

    Attributes:
        uri: the version's own URI.
        version: its name in the registry.
        against: the champion before; None where there was none.
        promoted: whether it took the champion's place.
        reasons: sentences.
    """

    uri: str
    version: str
    against: str | None
    promoted: bool
    reasons: tuple[str, ...]

    @property
    def serves(self) -> bool:
        """Whether it is the champion now."""
        return self.promoted or self.version == self.against

    def to_json(self) -> dict[str, Any]:
        """What published.json and a judgement's record hold."""
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave; keys beside these are passed over.

        Raises:
            DataError: it is something else.
        """
        try:
            return cls(
                uri=content["uri"],
                version=content["version"],
                against=content["against"],
                promoted=content["promoted"],
                reasons=tuple(content["reasons"]),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"This tells no outcome of a version ({error!r}): expected what the flows write.") from None


@dataclass(frozen=True)
class Plan:
    """What goes into a retraining's challenger.

    Attributes:
        champion: the version that it starts from.
        batches: keys of the accepted batches, sorted.
        challenger: how it begins.
        settings: key=value pairs laid over params.yaml.
        params: SHA-256 of the project's params.yaml.
    """

    champion: str
    batches: tuple[str, ...]
    challenger: Start
    settings: tuple[str, ...]
    params: str

    @property
    def key(self) -> str:
        """A name that is the same for the same plan."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The plan and its key."""
        return {**self._content(), "key": self.key}

    def _content(self) -> dict[str, Any]:
        return {
            "champion": self.champion,
            "batches": list(self.batches),
            "challenger": self.challenger,
            "settings": list(self.settings),
            "params": self.params,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave; keys beside these are passed over.

        Raises:
            DataError: it is something else.
        """
        try:
            settings = tuple(content["settings"])
            # Records from before there were refits do not tell.
            challenger = content.get("challenger", "warm" if settings else "cold")
            if challenger not in get_args(Start):
                raise TypeError(f"challenger {challenger!r}")
            return cls(content["champion"], tuple(content["batches"]), challenger, settings, content["params"])
        except (KeyError, TypeError) as error:
            raise DataError(f"This is no plan of a retraining ({error!r}): expected what the flow writes.") from None


@dataclass(frozen=True)
class Retraining:
    """A challenger that a retraining tried, as the registry keeps it.

    Attributes:
        plan: what went into it.
        outcome: what came of it.
        batch: key of the batch that asked for it, if one did.
        reason: why it was started.
    """

    plan: Plan
    outcome: Outcome
    batch: str | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """What its record holds: all of it on one level."""
        return {**self.plan.to_json(), "batch": self.batch, "reason": self.reason, **self.outcome.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            DataError: it is something else.
        """
        try:
            batch, reason = content["batch"], content["reason"]
        except (KeyError, TypeError) as error:
            raise DataError(f"This is no record of a retraining ({error!r}): expected what the flow writes.") from None
        return cls(Plan.from_json(content), Outcome.from_json(content), batch, reason)
