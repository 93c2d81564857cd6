"""The predecessor: the trained model that a run follows. Its labels keep their rows; a warm start begins with it."""

from dataclasses import dataclass
from pathlib import Path

from cascadexml.artifact.formats import ARTIFACT
from cascadexml.bundle import Bundle
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError, FormatError


@dataclass(frozen=True)
class Predecessor:
    """A verified artifact, as far as a run that follows it needs it."""

    bundle: Bundle
    vocabulary: Vocabulary

    @property
    def network(self) -> Path:
        """The folder of its cascade's network, for `CascadeXML.load`.

        Raises:
            FormatError: it holds no cascade.
        """
        return self._part("rankers/cascade/network")

    @property
    def tree(self) -> Path:
        """The folder of its cascade's label tree, for `LabelTree.load`.

        Raises:
            FormatError: it holds no cascade.
        """
        return self._part("rankers/cascade/network/tree")

    def _part(self, name: str) -> Path:
        folder = self.bundle.path / name
        if not folder.is_dir():
            raise FormatError(f"{self.bundle.path} holds no cascade ({name}): a warm start needs an artifact of one.")
        return folder


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
