"""Millions of labels from training to prediction, each step a process of its own: does it run whole, in what memory?

    python -m flows.services run -- python -m benchmarks.whole CORPUS [--labels 2812281] [--steps 30] [--folder FOLDER]

Texts are those of CORPUS; labels and their tree are synthetic, as in steps.py. The training is killed (SIGKILL) once it
has a checkpoint and goes on from it; another one is left alone, and both must end with the same bytes. Then the network
is packed, published to the registry that the environment names, pulled and asked. One JSON line a process: seconds and
the greatest resident size; the training's tell what share of its time went into checkpoints.
"""

import argparse
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.steps import labels, random_tree
from cascadexml.bundle import sha256_of
from cascadexml.config import EncoderSettings, TrainSettings, load_settings
from cascadexml.data.corpus import Corpus, Split
from cascadexml.data.tokens import TokenStore
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.labels.tree import LabelTree

NAME = "benchmark-whole"
BATCH, TOKENS = 64, 64
WEIGHTS = Path("network") / "model.safetensors"


def main() -> None:
    """Run each part in a process, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--labels", type=int, default=2_812_281)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where all of it lies; by default a temporary folder")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
        start = time.perf_counter()
        told = PARTS[arguments.part](arguments)
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        taken = {"part": arguments.part, "seconds": round(time.perf_counter() - start, 1), "peak GB": peak}
        print(json.dumps(taken | told), flush=True)
        return
    with TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        start_part("prepare", folder, arguments)
        killed = subprocess.Popen(command("train", folder, arguments, folder / "cut"))  # noqa: S603
        while not list((folder / "cut" / "checkpoints").glob("*/last/manifest.json")):
            if killed.poll() is not None:
                sys.exit("error: the training ended before it had a checkpoint")
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        start_part("train", folder, arguments, folder / "cut")
        start_part("train", folder, arguments, folder / "whole")
        same = sha256_of(folder / "cut" / "model" / WEIGHTS) == sha256_of(folder / "whole" / "model" / WEIGHTS)
        print(json.dumps({"resumed from a kill to the same bytes": same}), flush=True)
        for part in ("pack", "publish", "predict"):
            start_part(part, folder, arguments)


def command(part: str, folder: Path, arguments: argparse.Namespace, out: Path | None = None) -> list[str]:
    """The command line of one part."""
    told = [str(arguments.corpus), "--labels", str(arguments.labels), "--steps", str(arguments.steps)]
    words = [sys.executable, "-m", "benchmarks.whole", *told, "--folder", str(folder), "--part", part]
    return [*words, *(["--out", str(out)] if out else [])]


def start_part(part: str, folder: Path, arguments: argparse.Namespace, out: Path | None = None) -> None:
    """Run one part to its end."""
    subprocess.run(command(part, folder, arguments, out), check=True)  # noqa: S603


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """A corpus of synthetic labels, its tokens and its tree."""
    from cascadexml.rankers.cascade.encoder import load_tokenizer

    L, folder = arguments.labels, arguments.folder
    read = Corpus.load(arguments.corpus, ["train", "dev"])
    vocabulary = Vocabulary(tuple(f"s:{row}" for row in range(L)), (None,) * L, L)
    splits = {}
    for name, split in read.splits.items():
        n = min(len(split), arguments.steps * BATCH if name == "train" else 2 * BATCH)
        splits[name] = Split(split.ids[:n], split.texts[:n], labels(n, L), split.metadata.slice(0, n))
    corpus = Corpus(splits, vocabulary)
    corpus.save(folder / "corpus")
    tokenizer = load_tokenizer(encoder().name)
    for name, split in splits.items():
        TokenStore.build(folder / "tokens" / name, split.texts, tokenizer, TOKENS)
    random_tree(L).save(folder / "tree")
    return {"labels": L, "documents": {name: len(split) for name, split in splits.items()}}


def encoder() -> EncoderSettings:
    """The encoder of params.yaml."""
    return EncoderSettings(name=load_settings(Path("params.yaml")).encoder.name)


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train `--steps` steps, with a checkpoint at every report."""
    from cascadexml.training import fit as fitting
    from cascadexml.training.run import Run

    folder, out = arguments.folder, arguments.out
    run = Run(
        corpus=Corpus.load(folder / "corpus"),
        tokens={name: TokenStore.open(folder / "tokens" / name) for name in ("train", "dev")},
        tree=LabelTree.load(folder / "tree"),
        encoder=encoder(),
        settings=TrainSettings(
            epochs=1.0,
            batch_size=BATCH,
            micro_batch_size=BATCH,
            head_init="xavier",
            evaluations_per_epoch=1,
            checkpoint_minutes=0.0,
            device="cpu",
        ),
        seed=0,
        propensity_a=0.6,
        propensity_b=2.6,
    )
    seconds: list[float] = []
    written = fitting.save_checkpoint

    def timed(*parts: Any) -> None:
        start = time.perf_counter()
        written(*parts)
        seconds.append(time.perf_counter() - start)

    fitting.save_checkpoint = timed
    result = fitting.fit(run, out=out / "model", checkpoints=out / "checkpoints")
    return {"steps": result.steps, "seconds a checkpoint": round(float(np.mean(seconds)), 2) if seconds else None}


def pack(arguments: argparse.Namespace) -> dict[str, Any]:
    """The network as an artifact; its figures are none."""
    from cascadexml.artifact import Origin
    from cascadexml.artifact.packing import pack as pack_artifact
    from cascadexml.evaluation.calibration import Calibration
    from cascadexml.evaluation.report import EvaluationReport

    folder = arguments.folder
    corpus = Corpus.load(folder / "corpus", ["train"])
    pack_artifact(
        folder / "artifact",
        ranker=folder / "cut" / "model",
        vocabulary=corpus.vocabulary,
        label_counts=np.bincount(corpus.splits["train"].Y.indices, minlength=len(corpus.vocabulary)),
        calibration=Calibration(),
        metrics=EvaluationReport(),
        origin=Origin(name=NAME, documents={"train": len(corpus.splits["train"])}),
    )
    size = sum(file.stat().st_size for file in (folder / "artifact").rglob("*") if file.is_file())
    return {"GB on disk": round(size / 2**30, 2)}


def publish(arguments: argparse.Namespace) -> dict[str, Any]:
    """Publish it to the registry of params.yaml."""
    from cascadexml.registry import Registry

    settings = load_settings(Path("params.yaml")).registry
    uri = os.environ.get("CASCADEXML_REGISTRY") or settings.uri
    version = Registry(uri, settings=settings).publish(arguments.folder / "artifact", NAME)
    (arguments.folder / "uri").write_text(f"{uri}/{NAME}@{version.version}", encoding="utf-8")
    return {"version": version.version}


def predict(arguments: argparse.Namespace) -> dict[str, Any]:
    """Pull it into an empty cache, and ask it; then once more, as the next process would."""
    from cascadexml import Predictor

    os.environ["CASCADEXML_CACHE"] = str(arguments.folder / "cache")
    uri, found = (arguments.folder / "uri").read_text(encoding="utf-8"), {}
    text = Corpus.load(arguments.folder / "corpus", ["dev"]).splits["dev"].texts[0]
    for turn in ("pull to the first answer", "warm to the first answer"):
        start = time.perf_counter()
        answer = Predictor.load(uri, "cpu").predict([text], top_k=5)[0]
        found[turn] = round(time.perf_counter() - start, 1)
    return {**found, "labels": len(answer)}


PARTS = {"prepare": prepare, "train": train, "pack": pack, "publish": publish, "predict": predict}

if __name__ == "__main__":
    main()
