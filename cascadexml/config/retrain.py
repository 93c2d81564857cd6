"""Section `retrain` of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from cascadexml.config.knobs import knob

Challenger = Literal["refit", "warm", "cold", "refit_first"]
"""What a retraining puts up against the champion."""


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """Which challenger a retraining trains, and how."""

    challenger: Challenger = knob(
        "refit_first",
        meaning="`refit`: the champion's network as it is, all else of the blend fitted anew; `warm`: the network "
        "trains on as well; `cold`: all from the start; `refit_first`: a refit and, if it is not better, `warm`",
    )
    settings: list[str] = knob(
        ["train.encoder_lr=0.0001", "train.head_lr=0.001"],
        meaning="`key=value` pairs laid over all others for a challenger that starts from the champion",
    )
