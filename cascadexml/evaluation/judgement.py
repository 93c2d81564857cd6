"""What a judgement is: the decision between champion and challenger, all that it rests on, its JSON and its page.

`cascadexml.evaluation.judge` makes one. The keys of judgement.json stand here only. To import this costs no torch.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from cascadexml.errors import DataError
from cascadexml.metrics.report import Report, ends_from_json, ends_to_json


@dataclass(frozen=True)
class Comparison:
    """One figure of both models on the same documents, and whether it counts as fallen.

    Attributes:
        name: of the metric, or of the slice.
        documents: how many documents it is over; those that do not bear on it, such as ones without tail labels, count.
        champion: figure.
        challenger: figure.
        difference: challenger minus champion.
        low: of the 95 % interval of the difference.
        high: of it.
        why: how it fell, as the end of "it falls …"; None where it did not.
    """

    name: str
    documents: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    why: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it fell."""
        return self.why is not None

    def to_json(self) -> dict[str, Any]:
        """Its attributes, with "failed" before "why"."""
        content = asdict(self)
        return {name: content[name] for name in _COMPARED} | {"failed": self.failed, "why": self.why}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(**{name: content[name] for name in (*_COMPARED, "why")})


_COMPARED = ("name", "documents", "champion", "challenger", "difference", "low", "high")


@dataclass(frozen=True)
class ModelIdentity:
    """Which model was judged.

    Attributes:
        name: what its artifact calls it.
        fingerprint: SHA-256 of the artifact's manifest, as the registry has it.
        data_fingerprint: of the corpus that it was trained on; None where the artifact does not tell.
        labels: how many it ranks.
    """

    name: str
    fingerprint: str
    data_fingerprint: str | None
    labels: int


@dataclass(frozen=True)
class Judgement:
    """The decision, why, and all that it rests on.

    Attributes:
        promote: the decision.
        reasons: sentences, the first on the metric that decides.
        metric: what the challenger must be better on.
        margin: by how much.
        confidence: how surely, one-sided.
        documents: how many both ranked.
        champion: its figures with their 95 % intervals, not by bin; None without a champion.
        challenger: likewise.
        difference: on `metric`; None without a champion.
        lower_bound: what the difference on `metric` exceeds with `confidence`; None without a champion.
        differences: of all other figures of both.
        guards: metrics that may not fall.
        slices: `metric` on parts of the documents, where it may not fall.
        left_out: slices with too few documents: name → documents.
        notes: what a reader must know besides.
        models: "champion" and "challenger" → which they are.
    """

    promote: bool
    reasons: tuple[str, ...]
    metric: str
    margin: float
    confidence: float
    documents: int
    champion: Report | None
    challenger: Report
    difference: Comparison | None = None
    lower_bound: float | None = None
    differences: tuple[Comparison, ...] = ()
    guards: tuple[Comparison, ...] = ()
    slices: tuple[Comparison, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    models: Mapping[str, ModelIdentity] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What judgement.json holds; figures and differences are fractions."""
        main = None if self.difference is None else {**self.difference.to_json(), "lower_bound": self.lower_bound}
        return {
            "promote": self.promote,
            "reasons": list(self.reasons),
            "metric": self.metric,
            "margin": self.margin,
            "confidence": self.confidence,
            "documents": self.documents,
            "champion": None if self.champion is None else _side_to_json(self.champion),
            "challenger": _side_to_json(self.challenger),
            "difference": main,
            **{name: [each.to_json() for each in getattr(self, name)] for name in _COMPARISONS},
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "models": {role: asdict(model) for role, model in self.models.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            DataError: it is something else.
        """
        try:
            main = content["difference"]
            compared = {name: tuple(map(Comparison.from_json, content[name])) for name in _COMPARISONS}
            return cls(
                promote=content["promote"],
                reasons=tuple(content["reasons"]),
                metric=content["metric"],
                margin=content["margin"],
                confidence=content["confidence"],
                documents=content["documents"],
                champion=None if content["champion"] is None else _side_from_json(content["champion"]),
                challenger=_side_from_json(content["challenger"]),
                difference=None if main is None else Comparison.from_json(main),
                lower_bound=None if main is None else main["lower_bound"],
                differences=compared["differences"],
                guards=compared["guards"],
                slices=compared["slices"],
                left_out=dict(content["left_out"]),
                notes=tuple(content["notes"]),
                models={role: ModelIdentity(**model) for role, model in content["models"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"This is no judgement ({error!r}): expected what judgement.json holds.") from None


_COMPARISONS = ("differences", "guards", "slices")


def _side_to_json(side: Report) -> dict[str, Any]:
    return {"figures": dict(side.figures), "intervals": ends_to_json(side.intervals)}


def _side_from_json(content: Mapping[str, Any]) -> Report:
    return Report(dict(content["figures"]), ends_from_json(content["intervals"]))


def render(judgement: Judgement) -> str:
    """The judgement in Markdown: the decision with its reasons, then tables of what they rest on, in percent."""
    parts = [
        f"**{'Promoted' if judgement.promote else 'Not promoted'}**, on {judgement.documents:,} held-out documents.",
        "\n".join(f"- {_escaped(reason)}" for reason in judgement.reasons),
    ]
    if judgement.difference is not None:
        figures = (judgement.difference, *judgement.differences)
        parts += ["## Guards", _table("metric", judgement.guards)] if judgement.guards else []
        parts += [f"## {judgement.metric} by slice", _table("slice", judgement.slices)] if judgement.slices else []
        parts += ["## All figures", _table("metric", figures)]
    else:
        rows = [[name, _percent(value)] for name, value in judgement.challenger.figures.items()]
        parts += ["## Figures", _rows(["metric", "challenger"], rows)]
    if judgement.left_out:
        few = ", ".join(f"{_escaped(name)} ({count:,})" for name, count in sorted(judgement.left_out.items())[:20])
        more = f" and {len(judgement.left_out) - 20:,} more" if len(judgement.left_out) > 20 else ""
        parts.append(f"Slices with too few documents to guard: {few}{more}.")
    parts += [_escaped(note) for note in judgement.notes]
    return "\n\n".join(parts) + "\n"


def _table(what: str, comparisons: Sequence[Comparison]) -> str:
    head = [what, "documents", "champion", "challenger", "difference (95 % interval)", ""]
    rows = (
        [
            _escaped(each.name),
            f"{each.documents:,}",
            _percent(each.champion),
            _percent(each.challenger),
            f"{100 * each.difference:+.2f} ({100 * each.low:+.2f} to {100 * each.high:+.2f})",
            "falls" if each.failed else "",
        ]
        for each in comparisons
    )
    return _rows(head, rows)


def _rows(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _escaped(text: str) -> str:
    """Text out of the data that neither breaks a table nor becomes HTML or a link."""
    return re.sub(r"([\\|\[\]`*_])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
