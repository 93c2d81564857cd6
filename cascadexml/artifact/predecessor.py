"""The predecessor: the trained model that a run follows. Its labels keep their rows; a warm start begins with it."""

from dataclasses import dataclass
from pathlib import Path

from cascadexml.artifact.formats import ARTIFACT, exported_from, networks
from cascadexml.bundle import Bundle, Format
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError, FormatError


@dataclass(frozen=True)
class Predecessor:
    """A verified artifact, as far as a run that follows it needs it."""

    bundle: Bundle
    vocabulary: Vocabulary

    def parts(self, name: str, format_: Format, members: int) -> list[Bundle]:
        """A bundle of each of its networks, verified with the rest.

        Args:
            name: "network", or "network/tree".
            format_: of that.
            members: how many networks the run that follows trains.

        Raises:
            FormatError: it holds no network, or one of another version.
            ConfigError: it holds more or fewer, or was exported.
        """
        check_trainable(self.bundle)
        places = networks(self.bundle.files)
        if not places:
            raise FormatError(f"{self.bundle.path} holds no cascade: a warm start needs an artifact with one.")
        if len(places) != members:
            raise ConfigError(
                f"train.ensemble is {members}, and {self.bundle.path} holds {len(places)} networks to start from: set "
                f"train.ensemble to {len(places)}, or train.warm_start to false."
            )
        return [self.bundle.part(f"{place}/{name}", format_) for place in places]


def check_trainable(artifact: Bundle) -> None:
    """Refuse an artifact whose network has no weights to train on from.

    Raises:
        ConfigError: it was exported.
        FormatError: its manifest says so in no known form.
    """
    exported = exported_from(artifact)
    if exported is not None:
        raise ConfigError(
            f"{artifact.path} was exported to {exported.format} and cannot be trained further: start from the artifact "
            f"that it was made from ({exported.artifact}), or from the beginning (train.warm_start: false; of a "
            "retraining, challenger=cold)."
        )


def open_predecessor(path: Path, vocabulary: Vocabulary | None = None) -> Predecessor:
    """Verify every byte of the artifact that a run follows, and give what the run needs of it.

    Args:
        path: its folder.
        vocabulary: the run's, whose first labels must be the predecessor's, in their rows; None before there is one.

    Raises:
        ConfigError: there is no artifact at `path`.
        DataError: the vocabulary does not extend the artifact's.
        FormatError: the artifact is truncated, tampered with, of another kind or version.
    """
    if not path.exists():
        raise ConfigError(
            f"train.warm_start is true and {path} does not exist: put the artifact to start from there, or set "
            "train.warm_start to false."
        )
    found = ARTIFACT.read(path)
    older = Vocabulary.load(path / "vocabulary.json", digest=False)
    if vocabulary is not None and vocabulary.ids[: older.L] != older.ids[: older.L]:
        raise DataError(
            f"the corpus's first {older.L} labels are not those of {path}: run dvc repro, which validates the records "
            "with that artifact's vocabulary."
        )
    return Predecessor(found, older)
