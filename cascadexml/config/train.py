"""Section `train` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cascadexml.config.knobs import knob
from cascadexml.config.metric_names import metric_of
from cascadexml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Model, loss, optimiser and schedule.

    Lists hold one value a resolution (`taps`, `dropout`, `loss_weights`; `shortlist` one fewer), or, save `taps`, one
    value for all; null means the rule for the encoder's depth and the tree.
    """

    ensemble: int = knob(
        1,
        low=1,
        high=100,
        meaning="networks that are trained one after the other and answer together; number i, from 0, takes "
        "`seed` + i, and so another tree",
    )
    warm_start: bool = knob(
        False, meaning="start from the tree and the weights of `data/base/artifact`; `head_init` is then not used"
    )
    epochs: float = knob(1.25, low=0.0, high=1000, meaning="passes over train; a real number")
    batch_size: int = knob(32, low=1, meaning="documents an optimiser step, over all processes")
    micro_batch_size: int = knob(32, low=1, meaning="documents a forward pass; divides `batch_size`")
    pooling: Literal["cls", "mean"] = knob(
        "mean", meaning="a layer's vector: the first token's, or the mean over tokens"
    )
    taps: list[list[int]] | None = knob(
        None,
        meaning="layers each resolution reads, counted from 1; null: the paper's at 12 layers, a rule from them at "
        "other depths",
    )
    dropout: list[float] | None = knob(
        [0.1], low=0.0, high=0.95, meaning="one rate a resolution, or one for all; null: the paper's"
    )
    encoder_dropout: float | None = knob(
        0.0, low=0.0, high=0.95, meaning="inside the transformer; null: as its configuration says"
    )
    freeze_layers: int = knob(0, low=0, meaning="lowest layers, embeddings included, that do not learn")
    shortlist: list[int] | None = knob(
        None, low=1, meaning="clusters kept at each resolution above the labels; null: the paper's"
    )
    negatives: Literal["shortlist", "all"] = knob(
        "shortlist",
        meaning="what the labels' classifier learns from besides a document's labels: those of its `shortlist`, or "
        "`all` others, some at a time",
    )
    loss_weights: list[float] | None = knob(None, low=0.0, meaning="one a resolution, or one for all; null: 1")
    head_init: Literal["xavier", "centroid"] = knob(
        "centroid", meaning="`centroid`: a classifier row starts at the mean vector of its label's documents"
    )
    encoder_lr: float = knob(2e-4, low=0.0, high=1.0, meaning="peak learning rate of the transformer")
    head_lr: float = knob(2e-3, low=0.0, high=1.0, meaning="peak learning rate of all that learns from scratch")
    encoder_weight_decay: float = knob(0.05, low=0.0, high=1.0, meaning="none on biases and norms")
    head_weight_decay: float = knob(0.005, low=0.0, high=1.0, meaning="none on biases")
    heads: Literal["auto", "dense", "lean"] = knob(
        "auto",
        meaning="classifiers: `dense` matrices under AdamW; `lean`: rows in 16 bits that learn by row-wise Adagrad, a "
        "batch touching few of them; `auto`: lean for resolutions of 65,536 nodes and more",
    )
    lean_rows: Literal["bf16", "fp32"] = knob("bf16", meaning="what lean classifiers keep their rows in")
    sharded: bool = knob(
        False,
        meaning="each of several processes (torchrun) holds only its range of the lean classifiers' clusters; with one "
        "process it changes nothing",
    )
    lean_lr: float = knob(3e-2, low=0.0, high=1.0, meaning="peak learning rate of lean classifiers")
    warmup_epochs: float = knob(0.1, low=0.0, meaning="the learning rate rises over these")
    cosine_epochs: float = knob(0.6, low=0.0, meaning="and falls over these, at the end")
    cycle_beta1: bool = knob(True, meaning="AdamW's beta1 goes 0.95, 0.85, 0.95, against the learning rate; false: 0.9")
    clip_norm: float | None = knob(1.0, low=0.0, meaning="greatest gradient norm, above 0; null: no clipping")
    precision: Literal["auto", "fp32", "bf16"] = knob(
        "auto",
        meaning="`auto`: bf16 on a GPU that has it and on a CPU that multiplies in it (AVX512_BF16, AMX), else fp32",
    )
    compile: bool = knob(False, meaning="`torch.compile`")
    device: Literal["auto", "cpu", "cuda", "mps"] = knob(
        "auto", meaning="`auto` takes CUDA, else the CPU, and logs it; `mps` only by name, untested"
    )
    score: Literal["leaf", "weighted"] = knob(
        "leaf", meaning="`leaf`: sigmoid(leaf); `weighted`: sigmoid(leaf) times sigmoid(parent)"
    )
    select: str = knob("nDCG@5", meaning="metric on dev that picks the model: P, R, F1, nDCG, PSP or PSnDCG at any k")
    evaluations_per_epoch: int = knob(2, low=1, meaning="how often dev is measured")
    patience: int | None = knob(
        None, low=1, meaning="evaluations without a better model before training stops; null: never"
    )
    checkpoint_minutes: float = knob(
        2.0,
        low=0.0,
        meaning="between checkpoints, more where they would take above 3 % of the time; 0: at every report",
    )

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if self.batch_size % self.micro_batch_size:
            yield (
                f"train.micro_batch_size is {self.micro_batch_size}, expected a divisor of train.batch_size, "
                f"{self.batch_size}."
            )
        if self.sharded and self.negatives == "all":
            yield "train.negatives is all, expected shortlist where train.sharded is true."
        if self.clip_norm == 0:
            yield "train.clip_norm is 0, expected more, or null for no clipping."
        try:
            metric_of(self.select)
        except ConfigError as error:
            yield f"train.select: {error}"

    def resolutions(self) -> dict[str, int]:
        """How many resolutions each list speaks of that holds a value a resolution."""
        return {
            f"train.{name}": len(values) + more
            for name, more in (("taps", 0), ("dropout", 0), ("loss_weights", 0), ("shortlist", 1))
            # One number holds for all resolutions, however many there are; a list of layers is that of one resolution.
            if (values := getattr(self, name)) is not None and (len(values) > 1 or name == "taps")
        }


def member_seeds(seed: int, ensemble: int) -> list[int]:
    """The seed of each member of an ensemble, the run's own first."""
    return [seed + i for i in range(ensemble)]
