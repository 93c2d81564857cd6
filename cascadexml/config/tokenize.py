"""Section `tokenize` of params.yaml."""

from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings:
    """How texts become tokens."""

    max_length: int = knob(48, low=4, high=8192, meaning="tokens a text is cut to, special ones included")
    processes: int | None = knob(None, low=1, meaning="null: one a core")
