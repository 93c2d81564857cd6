"""Section `retrain` of params.yaml."""

from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """How a challenger that starts from the champion is trained."""

    settings: list[str] = knob(
        ["train.encoder_lr=0.0001", "train.head_lr=0.001"],
        meaning="`key=value` pairs laid over all others for a challenger that starts from the champion",
    )
