"""What sharing lean classifiers between processes costs a step, and what of them each process then holds.

    python -m benchmarks.shards CORPUS [--labels 670091] [--processes 1 2 4] [--steps 6]

Texts, labels and tree are those of steps.py. Each line is a group of processes on this machine (torchrun, gloo), which
divide a batch between them and the cores as well: with `sharded` each holds its range of the clusters of lean
classifiers, without it all hold all. One JSON line a group: the bytes of lean classifiers (rows, biases, Adagrad's
sums) in each process, the seconds of a step (a median), and these over those of one process.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.steps import labels, random_tree
from cascadexml.config import EncoderSettings, TrainSettings, load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.heads import Head
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.training.distributed import joined
from cascadexml.training.run import Run
from cascadexml.training.schedule import Schedule
from cascadexml.training.start import build_network
from cascadexml.training.step import Stepper

REPO = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cpu")


def main() -> None:
    """Start each group, and print what its first process tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--labels", type=int, default=670_091)
    parser.add_argument("--heads", choices=("auto", "lean"), default="auto")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--batch", type=int, default=64, help="documents of a step, of which each process has its share"
    )
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sharded", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.out:
        logging.basicConfig(level=logging.WARNING)
        measure(arguments)
        return
    alone = None
    for size in arguments.processes:
        for sharded in (False, True) if size > 1 else (False,):
            found = measured_by(size, sharded, arguments)
            seconds = found["seconds a step"]
            alone = seconds if size == 1 else alone
            ratio = {"over one process": round(seconds / alone, 2)} if alone else {}
            print(json.dumps({"processes": size, "sharded": sharded, **found, **ratio}), flush=True)


def measured_by(size: int, sharded: bool, arguments: argparse.Namespace) -> dict[str, float]:
    """What a group of so many processes measures."""
    told = ["--labels", arguments.labels, "--heads", arguments.heads, "--batch", arguments.batch]
    told += ["--tokens", arguments.tokens, "--steps", arguments.steps, *(["--sharded"] if sharded else [])]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", size]
    threads = max(1, (os.cpu_count() or 1) // size)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPO)}
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "found.json"
        words = [sys.executable, *launcher, "-m", "benchmarks.shards", arguments.corpus.resolve(), "--out", out, *told]
        subprocess.run([str(word) for word in words], check=True, env=environment, cwd=REPO)  # noqa: S603
        found: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return found


def measure(arguments: argparse.Namespace) -> None:
    """Take part in a group's steps; the first process writes what was found."""
    corpus, tree = Corpus.load(arguments.corpus, ["train"]), random_tree(arguments.labels)
    texts = corpus.splits["train"].texts
    encoder = EncoderSettings(name=load_settings(REPO / "params.yaml").encoder.name)
    with joined(DEVICE) as group, TemporaryDirectory() as scratch:
        settings = TrainSettings(
            heads=arguments.heads,
            sharded=arguments.sharded,
            batch_size=arguments.batch,
            micro_batch_size=max(1, arguments.batch // group.size),
            head_init="xavier",
            device="cpu",
        )
        store = TokenStore.build(Path(scratch) / "tokens", texts, load_tokenizer(encoder.name), arguments.tokens)
        inputs = {"corpus": corpus, "tokens": {"train": store}, "tree": tree, "encoder": encoder}
        run = Run(**inputs, settings=settings, seed=0, propensity_a=0.55, propensity_b=1.5)
        network = build_network(run, DEVICE, group)
        positives = LevelPositives(labels(len(texts), arguments.labels), tree)
        stepper = Stepper(run, network, positives, Schedule(10**6, 0, 0), group)
        rows = np.random.default_rng(0).permutation(len(texts))[: arguments.batch * (arguments.steps + 1)]
        seconds = []
        for step, batch in enumerate(np.split(rows, arguments.steps + 1)):
            group.meet(DEVICE)
            start = time.perf_counter()
            stepper.step(step, batch)
            seconds.append(time.perf_counter() - start)
        held = group.gather(torch.tensor([sum(map(bytes_of, network.heads))])).tolist()
        if group.leads:
            # The first step is for caches, and for the optimiser's state.
            found = {"bytes a process": held, "seconds a step": round(statistics.median(seconds[1:]), 3)}
            arguments.out.write_text(json.dumps(found), encoding="utf-8")


def bytes_of(head: Head) -> int:
    """What this process holds of a lean head for training; nothing of others."""
    kept = {**head.state_dict(), **head.training_state()} if head.training_state() else {}
    return sum(value.numel() * value.element_size() for value in kept.values())


if __name__ == "__main__":
    main()
