"""The predecessor: the trained model that a warm start follows, held to the labels of the run."""

from pathlib import Path

from cascadexml.artifact.artifact import Artifact, open_artifact
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError


def open_predecessor(path: Path, vocabulary: Vocabulary) -> Artifact:
    """Open the artifact that a warm start begins with, and check that its labels are the first rows of `vocabulary`.

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
    artifact = open_artifact(path)
    older = artifact.vocabulary()
    if vocabulary.ids[: older.L] != older.ids[: older.L]:
        raise DataError(
            f"the corpus's first {older.L} labels are not those of {path}: run dvc repro, which validates the records "
            "with that artifact's vocabulary."
        )
    return artifact
