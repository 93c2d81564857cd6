"""fit(): the training loop, with mixed precision, several processes, checkpoints, exact resume and selection on dev."""

import dataclasses
import hashlib
import json
import logging
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cascadexml.config import EncoderSettings, EvaluateSettings, TrainSettings
from cascadexml.config.metric_names import metric_of
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore, length_bucketed, tokenizer_fingerprint
from cascadexml.device import is_out_of_memory, pick_device
from cascadexml.errors import ConfigError, TrainingError
from cascadexml.labels.tree import LabelTree
from cascadexml.metrics import document_metrics, inverse_propensities
from cascadexml.progress import Progress, silent
from cascadexml.rankers.cascade.centroids import start_at_centroids
from cascadexml.rankers.cascade.encoder import load_encoder, load_tokenizer
from cascadexml.rankers.cascade.inference import rank_tokens
from cascadexml.rankers.cascade.network import FORMAT as MODEL_FORMAT
from cascadexml.rankers.cascade.network import (
    CascadeXML,
    derive_config,
    derive_loss_weights,
)
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.cascade.warm_start import copy_weights, start_new_labels
from cascadexml.training.checkpoint import Position, load_checkpoint, save_checkpoint
from cascadexml.training.distributed import Group, joined
from cascadexml.training.optimisers import Schedule, build_optimizer

LOG_EVERY = 10
MICRO_BATCHES_LIMIT = 1_000_003
GENTLER = "lower train.encoder_lr and train.head_lr, set train.clip_norm, or set train.precision to fp32."

log = logging.getLogger(__name__)

Record = Callable[[int, Mapping[str, float]], None]
"""Called with (step, figures) for whoever keeps curves, such as DVCLive."""


@dataclass(frozen=True)
class FitResult:
    """What a run ended with: steps done, the selected step, and the selection metric there (None without dev)."""

    steps: int
    best_step: int
    best: float | None


def fit(
    corpus: Corpus,
    tokens: Mapping[str, TokenStore],
    tree: LabelTree,
    encoder: EncoderSettings,
    settings: TrainSettings,
    seed: int,
    *,
    out: Path,
    checkpoints: Path,
    base: Path | None = None,
    progress: Progress = silent,
    record: Record = lambda step, figures: None,
) -> FitResult:
    """Fit the cascade and write the ranker that is best on dev to `out`.

    Killed at any moment, the next call with the same arguments goes on from the last checkpoint and ends with the same
    weights, bit for bit on a CPU. With several processes (torchrun) each works on its share of every global batch's
    micro-batches, so the result is that of one process up to the order of floating-point sums.

    Args:
        corpus: with splits `train` and, for selection, `dev`; without documents in dev the last weights are kept.
        tokens: a token store for each of these splits.
        tree: the label tree over the corpus's L labels.
        encoder: which transformer to start from.
        settings: model, loss, optimiser and schedule.
        seed: of initialisation, data order and dropout.
        out: folder of the trained ranker, a bundle that `load_ranker` reads.
        checkpoints: folder under which this run keeps its state, in a folder named by its fingerprint.
        base: the model bundle whose weights a warm start begins with; its labels are the corpus's first, and `tree` is
            its tree with new labels taken in (`extend_tree`). None for a cold start.
        progress: told of every step.
        record: given losses, rates, throughput and dev metrics; after a resume all of them from the start again.

    Raises:
        TrainingError: out of memory, a loss that is not finite, or a checkpoint of another run.
        ConfigError: settings that do not fit the encoder, the tokens, the tree, the base or this machine.
        EncoderError: the encoder cannot be found or used.
        FormatError: the base or a checkpoint is truncated, tampered with, of another kind or version.
    """
    metric_of(settings.select)
    if settings.warm_start and base is None:
        raise ConfigError("train.warm_start is true and no base was given: give one, or set train.warm_start to false.")
    device = pick_device(settings.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    with joined(device) as group:
        run = Run(corpus, tokens, tree, encoder, settings, seed, base)
        return Trainer(run, device, group, checkpoints, progress, record).run(out)


@dataclass(frozen=True, eq=False)
class Run:
    """All that decides a run's weights, as `fit` takes it."""

    corpus: Corpus
    tokens: Mapping[str, TokenStore]
    tree: LabelTree
    encoder: EncoderSettings
    settings: TrainSettings
    seed: int
    base: Path | None = None

    def fingerprint(self) -> str:
        """SHA-256 of the content of all of this; how often the run is checkpointed does not count."""
        kept = dataclasses.asdict(dataclasses.replace(self.settings, checkpoint_minutes=0.0))
        tree = (self.tree.leaf_order, *self.tree.offsets)
        parts = {
            "corpus": self.corpus.fingerprint,
            "tokens": {name: store.fingerprint for name, store in sorted(self.tokens.items())},
            "tree": hashlib.sha256(b"".join(a.tobytes() for a in tree)).hexdigest(),
            "encoder": dataclasses.asdict(self.encoder),
            "settings": kept,
            "seed": self.seed,
            "base": self.base and MODEL_FORMAT.read(self.base, digests=False).fingerprint,
            "torch": torch.__version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Trainer:
    """One run's state; `fit` is its public face."""

    def __init__(
        self, run: Run, device: torch.device, group: Group, checkpoints: Path, progress: Progress, record: Record
    ) -> None:
        corpus, tokens, tree, settings, seed = run.corpus, run.tokens, run.tree, run.settings, run.seed
        self.corpus, self.tokens, self.settings, self.seed, self.base = corpus, tokens, settings, seed, run.base
        self.device, self.group = device, group
        self.selects = len(tokens.get("dev", ())) > 0
        self.progress = progress if group.leads else silent
        self.tell = record
        self.curves: list[tuple[int, Mapping[str, float]]] = []
        self.fingerprint = run.fingerprint()
        self.folder = checkpoints / self.fingerprint[:16]
        self.batches_per_epoch = math.ceil(tokens["train"].lengths.size / settings.batch_size)
        self.steps = round(settings.epochs * self.batches_per_epoch)
        self.schedule = Schedule(
            self.steps,
            round(settings.warmup_epochs * self.batches_per_epoch),
            min(self.steps, round(settings.cosine_epochs * self.batches_per_epoch)),
            settings.cycle_beta1,
        )
        self.tokenizer = load_tokenizer(run.encoder.name, run.encoder.revision)
        if tokenizer_fingerprint(self.tokenizer) != tokens["train"].tokenizer_fingerprint:
            raise ConfigError(
                f"the tokens were not made by the tokenizer of {run.encoder.name}: tokenize again, or set encoder.name "
                "to the encoder that they were made for."
            )
        torch.manual_seed(seed)
        transformer = load_encoder(run.encoder.name, run.encoder.revision, settings.encoder_dropout)
        config = derive_config(settings, transformer.config.num_hidden_layers, tree)
        self.model = CascadeXML(transformer, tree, config).to(device)
        self.model.freeze(settings.freeze_layers)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, settings)
        self.positives = LevelPositives(corpus.splits["train"].Y, tree)
        self.loss_weights = torch.tensor(derive_loss_weights(settings, tree), device=device)
        bf16 = settings.precision == "bf16" or (
            settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
        log.info(
            "model: %d resolutions over clusters %s and %d labels, taps %s, shortlists %s, %s",
            len(self.model.heads),
            list(tree.levels),
            tree.L,
            config.taps,
            config.shortlist,
            "bf16" if bf16 else "fp32",
        )

    def run(self, out: Path) -> FitResult:
        """Train to the end and write the selected model to `out`."""
        position = self._start()
        if self.settings.compile:
            self.model.encoder.compile(dynamic=True)
        with self._out_of_memory_said():
            position = self._train(position)
        if self.group.leads:
            best = self.folder / "best"
            model = CascadeXML.load(best, str(self.device)) if best.exists() else self.model
            CascadeRanker(model, self.tokenizer, self.tokens["train"].max_length).save(out)
            shutil.rmtree(self.folder, ignore_errors=True)
        return FitResult(position.step, position.best_step, position.best)

    def _start(self) -> Position:
        last = self.folder / "last"
        if last.exists():
            position, curves = load_checkpoint(last, self.fingerprint, self.model, self.optimizer)
            for step, figures in curves:
                self._record(step, figures)
            log.info("resuming at step %d of %d from %s", position.step, self.steps, last)
            return position
        # Before the lead works alone: settings that do not fit the base are refused by every process at once.
        first = copy_weights(self.model, self.base) if self.base is not None else 0
        if self.base is not None or self.settings.head_init == "centroid":
            with self._out_of_memory_said():
                if self.group.leads:
                    self._start_rows(first)
                self.group.copy_from_lead(self.model.replicated)
        if self.steps == 0 and self.selects:
            return self._evaluate(Position())
        return Position()

    def _start_rows(self, first: int) -> None:
        tokens, size = self.tokens["train"], self.settings.micro_batch_size
        if self.base is None:
            start_at_centroids(self.model, tokens, self.positives, size, self.seed, self.progress)
        else:
            Y = self.corpus.splits["train"].Y
            start_new_labels(self.model, first, tokens, Y, size, self.seed, self.progress)

    def _train(self, position: Position) -> Position:
        batches: list[np.ndarray] = []
        losses = torch.zeros(len(self.model.heads) + 1, device=self.device)
        interval = max(1, math.ceil(self.batches_per_epoch / self.settings.evaluations_per_epoch))
        saved = logged = time.monotonic()
        documents = 0
        while position.step < self.steps and not position.stopped:
            step = position.step
            epoch, place = divmod(step, self.batches_per_epoch)
            if place == 0 or not batches:
                batches = length_bucketed(
                    self.tokens["train"].lengths, self.settings.batch_size, seed=self.seed, epoch=epoch
                )
            losses += self._step(step, batches[place])
            documents += batches[place].size
            position = dataclasses.replace(position, step=step + 1)
            step_is_reported = position.step % LOG_EVERY == 0 or position.step == self.steps
            if step_is_reported:
                now = time.monotonic()
                self._log(position.step, losses, documents, now - logged)
                losses, documents, logged = torch.zeros_like(losses), 0, now
            if self.selects and (position.step % interval == 0 or position.step == self.steps):
                position = self._evaluate(position)
            # Only where the losses have just been reported, so that no sum under way needs keeping.
            due = step_is_reported and time.monotonic() - saved >= 60 * self.settings.checkpoint_minutes
            if self.group.leads and due and position.step < self.steps:
                save_checkpoint(
                    self.folder / "last", self.fingerprint, position, self.model, self.optimizer, self.curves
                )
                saved = time.monotonic()
        return position

    def _step(self, step: int, rows: np.ndarray) -> Tensor:
        """One optimiser step over a global batch; gives (R + 1,) summed level losses and the total, of this process."""
        self.model.train()
        self.schedule.apply(self.optimizer, step)
        self.optimizer.zero_grad()
        losses = torch.zeros(len(self.model.heads) + 1, device=self.device)
        size = self.settings.micro_batch_size
        for micro in range(self.group.rank, math.ceil(rows.size / size), self.group.size):
            # Dropout depends on the step and the micro-batch alone: neither a resumed run nor the number of processes
            # changes it, and no generator state needs keeping.
            torch.manual_seed((self.seed * MICRO_BATCHES_LIMIT + step) * MICRO_BATCHES_LIMIT % 2**62 + micro)
            part = rows[micro * size : (micro + 1) * size]
            batch = self.tokens["train"].batch(part)
            with self.autocast:
                outputs = self.model(
                    batch.input_ids.to(self.device, non_blocking=True),
                    batch.attention_mask.to(self.device, non_blocking=True),
                    self.positives.batch(part, self.device),
                )
                levels = self.model.losses(outputs).sum(0) / rows.size
            total = (levels * self.loss_weights).sum()
            total.backward()  # type: ignore[no-untyped-call]
            losses += torch.cat([levels.detach(), total.detach().unsqueeze(0)])
        self.group.sum_gradients(self.model.replicated)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimizer.step()
        return losses

    def _log(self, step: int, losses: Tensor, documents: int, seconds: float) -> None:
        *levels, total = (self.group.sum(losses) / (((step - 1) % LOG_EVERY) + 1)).tolist()
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss became {total} between steps {max(0, step - LOG_EVERY)} and {step} of {self.steps}: "
                f"{GENTLER}"
            )
        rate = self.settings.encoder_lr * self.schedule.factor(step - 1)
        speed = documents / max(seconds, 1e-9)
        self.progress("train", step, self.steps, {"loss": total, "lr": rate, "docs/s": speed})
        self._record(
            step,
            {
                "loss/total": total,
                **{f"loss/level_{r}": value for r, value in enumerate(levels)},
                "rate/encoder": rate,
                "rate/heads": self.settings.head_lr * self.schedule.factor(step - 1),
                "rate/beta1": self.schedule.beta1(step - 1),
                "speed/documents_per_second": speed,
                "memory/peak_gib": peak_memory_gib(self.device),
            },
        )

    def _record(self, step: int, figures: Mapping[str, float]) -> None:
        if self.group.leads:
            self.curves.append((step, figures))
            self.tell(step, figures)

    def _evaluate(self, position: Position) -> Position:
        """Measure dev on rank 0, keep the model if it is the best so far, and tell all whether to stop."""
        if self.group.leads:
            figures = self._dev_metrics(position.step)
            value = figures[self.settings.select]
            self._record(position.step, {f"dev/{name}": figure for name, figure in figures.items()})
            log.info("step %d: dev %s", position.step, " ".join(f"{n} {v:.4f}" for n, v in figures.items()))
            if position.best is None or value > position.best:
                self.model.save(self.folder / "best")
                position = dataclasses.replace(
                    position, best=value, best_step=position.step, evaluations_without_gain=0
                )
            else:
                stale = position.evaluations_without_gain + 1
                stopped = self.settings.patience is not None and stale >= self.settings.patience
                position = dataclasses.replace(position, evaluations_without_gain=stale, stopped=stopped)
        stopped = self.group.lead_says(position.stopped, self.device)
        return dataclasses.replace(position, stopped=stopped)

    def _dev_metrics(self, step: int) -> dict[str, float]:
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise TrainingError(f"a weight is no finite number after step {step} of {self.steps}: {GENTLER}")
        _, k = metric_of(self.settings.select)
        ks = sorted({1, 3, 5, k})
        with self.autocast:
            ranking = rank_tokens(self.model, self.tokens["dev"], ks[-1], self.settings.micro_batch_size)
        defaults = EvaluateSettings()
        train, dev = self.corpus.splits["train"], self.corpus.splits["dev"]
        weights = inverse_propensities(train.Y, defaults.propensity_a, defaults.propensity_b)
        return {name: float(v.mean()) for name, v in document_metrics(ranking, dev.Y, ks, weights).items()}

    @contextmanager
    def _out_of_memory_said(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory on {self.device} with micro-batches of {self.settings.micro_batch_size} texts: lower "
                "train.micro_batch_size (the result stays the same), tokenize.max_length or train.shortlist."
            ) from None


def peak_memory_gib(device: torch.device) -> float:
    """The most memory held so far, in GiB: of the GPU on CUDA, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
