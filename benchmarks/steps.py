"""What a training step and an answer cost beside the bare encoder's, and the memory, by the number of labels.

    python benchmarks/steps.py CORPUS [--labels 4524 131073 670091 2812281] [--heads auto dense] [--steps 6]
    python benchmarks/steps.py CORPUS --negatives all

Texts are those of the corpus' train split; labels are synthetic: a random tree over so many, five labels a document
with frequencies after Zipf. The bare encoder does forward, backward, clipping and AdamW on the same batches, with
nothing but a mean over its last layer on top. Each round times the two one after the other. Every setting has a process
of its own, whose greatest resident size is told. One JSON line a setting.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from cascadexml.config import EncoderSettings, TrainSettings, load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.labels.tree import LabelTree, derive_levels
from cascadexml.rankers.cascade.encoder import load_encoder, load_tokenizer
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.training.distributed import Group
from cascadexml.training.precision import in_bf16, mixed_precision
from cascadexml.training.run import Run
from cascadexml.training.schedule import Schedule
from cascadexml.training.start import build_network
from cascadexml.training.step import Stepper

LABELS_A_DOCUMENT = 5


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[4524, 131073, 670091, 2812281])
    parser.add_argument("--heads", choices=("auto", "dense", "lean"), nargs="+", default=["auto"])
    parser.add_argument("--negatives", choices=("shortlist", "all"), default="shortlist")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    arguments = parser.parse_args()
    for L in arguments.labels:
        for heads in arguments.heads:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as own:
                print(json.dumps(own.submit(measure, L, heads, arguments).result()), flush=True)


def measure(L: int, heads: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time steps of one setting."""
    settings = TrainSettings(
        heads=heads,  # type: ignore[arg-type]
        negatives=arguments.negatives,
        batch_size=arguments.batch,
        micro_batch_size=arguments.batch,
        head_init="xavier",
        precision=arguments.precision,
        device="cpu",
    )
    corpus = Corpus.load(arguments.corpus, ["train"])
    texts, tree = corpus.splits["train"].texts, random_tree(L)
    encoder = EncoderSettings(name=load_settings(Path("params.yaml")).encoder.name)
    with TemporaryDirectory() as scratch:
        store = TokenStore.build(Path(scratch) / "tokens", texts, load_tokenizer(encoder.name), arguments.tokens)
        run = Run(
            corpus=corpus,
            tokens={"train": store},
            tree=tree,
            encoder=encoder,
            settings=settings,
            seed=0,
            propensity_a=0.55,
            propensity_b=1.5,
        )
        network = build_network(run, torch.device("cpu"), Group())
        stepper = Stepper(run, network, LevelPositives(labels(len(texts), L), tree), Schedule(10**6, 0, 0), Group())
        bare = Bare(run)
        rows = np.random.default_rng(0).permutation(len(texts))[: arguments.batch * (arguments.steps + 1)]
        seconds: dict[str, list[float]] = {"step": [], "encoder": []}
        for step, batch in enumerate(np.split(rows, arguments.steps + 1)):
            for name, work in (("encoder", bare.step), ("step", stepper.step)):
                start = time.perf_counter()
                work(step, batch)
                seconds[name].append(time.perf_counter() - start)
        answers = {f"answer to {B} over the encoder": answer(network, store, B, arguments.steps) for B in (1, 64)}
    # The first is for caches, and for the optimiser's state.
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    return {
        "labels": L,
        "levels": list(tree.levels),
        "heads": [type(head).__name__ for head in network.heads],
        "seconds a step": round(medians["step"], 3),
        "over the encoder": round(medians["step"] / medians["encoder"], 3),
        "each": [round(a / b, 2) for a, b in zip(seconds["step"], seconds["encoder"], strict=True)],
        **answers,
        "peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


@torch.inference_mode()
def answer(network: CascadeXML, store: TokenStore, B: int, rounds: int) -> float:
    """What ranking B texts takes over the encoder's forward pass on them, a median; one text of some 32 tokens."""
    network.eval()
    rows = np.arange(len(store)) if B > 1 else np.argsort(np.abs(store.lengths.astype(int) - 32), kind="stable")
    ratios = []
    for turn in range(10 * rounds if B == 1 else rounds):
        batch = store.batch(rows[turn * B : turn * B + B])
        start = time.perf_counter()
        network.encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        middle = time.perf_counter()
        network.rank(batch.input_ids, batch.attention_mask, 100)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return round(statistics.median(ratios), 3)


def random_tree(L: int) -> LabelTree:
    """A balanced tree with the levels that the pipeline would derive."""
    levels = derive_levels(L, 8)
    offsets = tuple(np.linspace(0, L, C + 1).astype(np.int64) for C in levels)
    fine = offsets[-1]
    nested = tuple(fine[:: levels[-1] // C].copy() for C in levels)
    return LabelTree(np.random.default_rng(0).permutation(L).astype(np.int64), nested, L, tuple(levels))


def labels(N: int, L: int) -> sparse.csr_matrix:
    """(N, L) synthetic labels: frequencies fall with their rank."""
    random = np.random.default_rng(0)
    drawn: npt.NDArray[np.int64] = (L ** random.random(N * LABELS_A_DOCUMENT)).astype(np.int64) - 1
    documents = np.repeat(np.arange(N), LABELS_A_DOCUMENT)
    found = sparse.csr_matrix((np.ones(drawn.size, np.float32), (documents, drawn)), shape=(N, L))
    found.data[:] = 1.0
    return found


class Bare:
    """The encoder alone, in the same precision and on the same batches."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.encoder = load_encoder(run.encoder.name, None, 0.0)
        if in_bf16(run.settings, torch.device("cpu")):
            # As `build_network` does.
            self.encoder.set_attn_implementation("eager")
        self.autocast = mixed_precision(run.settings, torch.device("cpu"))
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=1e-6, fused=True)

    def step(self, step: int, rows: npt.NDArray[np.int64]) -> None:
        """One step that learns nothing of use."""
        batch = self.run.tokens["train"].batch(rows)
        self.optimizer.zero_grad()
        with self.autocast:
            states = self.encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
            loss = states.float().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()


if __name__ == "__main__":
    main()
