"""What the rankers over words, and the stages after training, cost at many labels: seconds and memory of each.

    python -m benchmarks.wide [--labels 670091] [--documents 490449] [--held-out 153025] [--fitted 20000]

The default is the published shape of Amazon-670K; records are synthetic, those of label_trees.py with words for texts:
75 words a document of 135,909, in random order, so that pairs of words meet by chance alone, which is the worst case
for them. The linear classifiers are fitted for `--fitted` labels drawn at random, each against all documents; from
these the hours of all labels are extrapolated, and their weights are repeated for the rest when texts are ranked. The
rankings that are evaluated are synthetic: 100 labels a document, half of the true ones among the first twenty. Each
part has a process of its own, whose greatest resident size is told. One JSON line a part.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from joblib.externals.loky import get_reusable_executor
from scipy import sparse

from cascadexml.config import BlendSettings, EvaluateSettings, LinearSettings
from cascadexml.data.corpus import Corpus, Split
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.held_out import Provenance, Seen, load_held_out, save_held_out
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import NAMES_DEPTH
from cascadexml.rankers.linear import LinearRanker
from cascadexml.rankers.names import NamesRanker
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.search import InvertedIndex
from cascadexml.ranking import Ranking

PLACES, DEPTH = 20, 100
BATCH = 64
HALVINGS, ROUNDS = 9, 3


def main() -> None:
    """Run each part in a process of its own, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=670_091)
    parser.add_argument("--documents", type=int, default=490_449)
    parser.add_argument("--held-out", type=int, default=153_025, help="documents of dev, and of test")
    parser.add_argument("--fitted", type=int, default=20_000, help="labels that get classifiers of their own")
    parser.add_argument("--texts", type=int, default=256, help="texts that are ranked one by one, and in batches")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="needs --folder of a run before")
    parser.add_argument("--folder", type=Path, help="where all of it lies; by default a temporary folder")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        start = time.perf_counter()
        told = PARTS[arguments.part](arguments)
        wall, size = (time.perf_counter() - start) / 60, peak()
        taken = {"part": arguments.part, "minutes": round(wall, 2), "CPU minutes": round(sum(os.times()[:4]) / 60, 2)}
        print(json.dumps(taken | {"peak GB": size} | told), flush=True)
        return
    with TemporaryDirectory() as scratch:
        sizes = {name: str(getattr(arguments, name)) for name in ("labels", "documents", "held_out", "fitted", "texts")}
        flags = [part for name, size in sizes.items() for part in (f"--{name.replace('_', '-')}", size)]
        words = [sys.executable, "-m", "benchmarks.wide", *flags, "--folder", str(arguments.folder or scratch)]
        for part in arguments.only:
            subprocess.run([*words, "--part", part], check=True)  # noqa: S603


def peak() -> float:
    """The greatest resident size of this process and of as many workers as there are cores, GB; shared pages count as
    often as they are shared.
    """
    get_reusable_executor().shutdown()
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round((own + worker * (os.cpu_count() or 1)) / 2**20, 2)


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """A corpus of synthetic records."""
    from benchmarks.label_trees import synthetic

    L, sizes = arguments.labels, (arguments.documents, arguments.held_out, arguments.held_out)
    X, Y = synthetic(L, sum(sizes))
    texts = texts_of(X)
    ends = np.cumsum([0, *sizes]).tolist()
    splits = {}
    for name, start, end in zip(("train", "dev", "test"), ends, ends[1:], strict=False):
        metadata = pa.table({"kind": [f"kind {n % 5}" for n in range(start, end)]})
        ids = [f"d{n}" for n in range(start, end)]
        splits[name] = Split(ids, texts[start:end], Y[start:end], metadata)
    names = tuple(texts[n % len(texts)][:60] for n in range(L))
    Corpus(splits, Vocabulary(tuple(f"s:{row}" for row in range(L)), names, L)).save(arguments.folder / "corpus")
    return {"labels": L, "documents": dict(zip(splits, sizes, strict=True)), "uses": Y.nnz, "synthetic": True}


def texts_of(X: sparse.csr_matrix) -> list[str]:
    """A text of each document's words, in random order."""
    # Of letters alone: what looks at words of texts takes digits for none.
    spelt = str.maketrans("0123456789", "abcdefghij")
    random, word = np.random.default_rng(1), [f"w{column}".translate(spelt) for column in range(X.shape[1])]
    texts = []
    for n in range(X.shape[0]):
        columns = random.permutation(X.indices[X.indptr[n] : X.indptr[n + 1]])
        texts.append(" ".join([word[column] for column in columns.tolist()]))
    return texts


def train_of(arguments: argparse.Namespace) -> tuple[Corpus, Split]:
    """The train split, as the stages load it."""
    corpus = Corpus.load(arguments.folder / "corpus", ["train"])
    return corpus, corpus.splits["train"]


def linear(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit some labels' classifiers against all documents; keep them, repeated for the rest of the labels."""
    corpus, train = train_of(arguments)
    L, some = corpus.vocabulary.L, min(arguments.fitted, corpus.vocabulary.L)
    drawn = np.sort(np.random.default_rng(0).permutation(L)[:some])
    marks: list[tuple[int, float]] = [(0, time.perf_counter())]
    ranker = LinearRanker.fit(
        Documents(train.texts),
        corpus.train_labels[:, drawn],
        LinearSettings(),
        0,
        lambda what, done, total, figures: marks.append((done, time.perf_counter())),
    )
    trained, worked = peak(), os.times()
    (first, began), (last, ended) = marks[1], marks[-1]
    rate = (last - first) / (ended - began) if last > first else last / (ended - marks[0][1])
    repeated(ranker, L).save(arguments.folder / "linear")
    return {
        "labels": some,
        "minutes before the first label": round((began - marks[0][1]) / 60, 2),
        "labels a second": round(rate, 1),
        "CPU ms of the workers a label": round(1000 * (worked.children_user + worked.children_system) / some, 1),
        "hours for all labels, extrapolated": round((began - marks[0][1] + L / rate) / 3600, 2),
        "terms": ranker.tfidf.V,
        "weights a label": round(ranker.W.nnz / some, 1),
        "GB of weights of all labels, extrapolated": round(8 * ranker.W.nnz * L / some / 2**30, 2),
        "peak GB while fitting": trained,
    }


def repeated(ranker: LinearRanker, L: int) -> LinearRanker:
    """A ranker of L labels that has the weights of one of fewer again and again."""
    times = -(-L // ranker.L)
    W = sparse.hstack([ranker.W] * times, format="csr", dtype=np.float32)[:, :L]
    W.sort_indices()
    return LinearRanker(ranker.tfidf, W, np.tile(ranker.b, times)[:L])


def neighbours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Index the documents."""
    corpus, train = train_of(arguments)
    settings = BlendSettings()
    start = time.perf_counter()
    index = NearestNeighbours.fit(
        Documents(train.texts), corpus.train_labels, settings.neighbours, opening=settings.opening
    )
    seconds = time.perf_counter() - start
    index.save(arguments.folder / "neighbours")
    return {"seconds of the fit": round(seconds, 1), "terms": index.tfidf.V, "entries": index.X.nnz}


def names(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take the labels' names apart."""
    corpus, _ = train_of(arguments)
    start = time.perf_counter()
    ranker = NamesRanker.fit(corpus.vocabulary.names, BlendSettings().opening)
    seconds = time.perf_counter() - start
    ranker.save(arguments.folder / "names")
    return {"seconds of the fit": round(seconds, 1), "runs": len(ranker.runs), "entries": ranker.W.nnz}


def rank(arguments: argparse.Namespace) -> dict[str, Any]:
    """One text at a time, and batches; the first of each is for caches."""
    texts = Corpus.load(arguments.folder / "corpus", ["test"]).splits["test"].texts[: arguments.texts]
    found: dict[str, Any] = {}
    for kind in (LinearRanker, NearestNeighbours, NamesRanker):
        ranker = kind.load(arguments.folder / kind.kind)
        single = milliseconds(lambda some, ranker=ranker: ranker.rank(Documents(some), DEPTH), texts, 1)
        batch = milliseconds(lambda some, ranker=ranker: ranker.rank(Documents(some), DEPTH), texts, BATCH)
        found[kind.kind] = {"ms for one text": round(single, 2), f"ms a text in batches of {BATCH}": round(batch, 2)}
    return found


def search(arguments: argparse.Namespace) -> dict[str, Any]:
    """How many times as fast as the whole product the rankers' search is, over all and over the first of their columns.

    This is what `cascadexml.rankers.search.SEARCHED` follows. Of nearest documents those of a vote are asked, and as
    many as there are near negatives of a classifier.
    """
    texts = Corpus.load(arguments.folder / "corpus", ["test"]).splits["test"].texts[:BATCH]
    linear, near, names = (
        kind.load(arguments.folder / kind.kind) for kind in (LinearRanker, NearestNeighbours, NamesRanker)
    )
    known, documents = near.tfidf.transform(texts), sparse.csr_matrix(near.X.T)
    asked = {
        "linear": (linear.W, linear.b, linear.tfidf.transform(texts), DEPTH),
        "neighbours": (documents, None, known, near.neighbours),
        "near negatives": (documents, None, known, LinearSettings().near_negatives),
        "names": (names.W, None, names.runs_of(texts), NAMES_DEPTH),
    }
    return {name: times_as_fast(*each) for name, each in asked.items()}


def times_as_fast(
    lists: sparse.csr_matrix, bias: npt.NDArray[np.float32] | None, X: sparse.csr_matrix, k: int
) -> dict[str, Any]:
    """Columns → the whole product's time over the search's, for one text and for a batch."""
    rows, found = [X[n] for n in range(X.shape[0])], {}
    for halvings in range(HALVINGS):
        n = lists.shape[1] >> halvings
        if n == 0:
            break
        some, starts = sparse.csr_matrix(lists[:, :n]), None if bias is None else bias[:n]
        whole, searched = (
            [milliseconds(lambda part, index=index: index.rank(part[0], k), each, 1) for each in (rows, [X] * ROUNDS)]
            for index in (InvertedIndex(some, starts, searched=way) for way in (False, True))
        )
        found[str(n)] = {
            "one text": round(whole[0] / searched[0], 2),
            f"batches of {BATCH}": round(whole[1] / searched[1], 2),
        }
    return found


def milliseconds(work: Callable[[list[Any]], object], texts: list[Any], size: int) -> float:
    """Median milliseconds a text of `work` on so many at a time."""
    work(texts[:size])
    taken = []
    for start in range(0, len(texts), size):
        some = texts[start : start + size]
        began = time.perf_counter()
        work(some)
        taken.append(1000 * (time.perf_counter() - began) / len(some))
    return statistics.median(taken)


def synthetic_ranking(Y: sparse.csr_matrix, seed: int) -> Ranking:
    """(N, DEPTH): each true label with an even chance in one of the first places, any others elsewhere."""
    random, (N, L) = np.random.default_rng(seed), Y.shape
    K = min(DEPTH, L)
    labels = ((random.integers(0, L, (N, 1)) + np.arange(K) * max(1, L // K)) % L).astype(np.int32)
    document = np.repeat(np.arange(N), np.diff(Y.indptr))
    found = random.random(document.size) < 0.5
    place: npt.NDArray[np.int64] = (min(PLACES, K) * random.random(document.size) ** 2).astype(np.int64)
    labels[document[found], place[found]] = Y.indices[found]
    scores = np.sort(random.random((N, K), dtype=np.float32), axis=1)[:, ::-1] ** 4
    return Ranking(labels, np.ascontiguousarray(scores))


def calibrate(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of `evaluate` happens on dev: calibration and choices."""
    from cascadexml.evaluation.evaluated import Evaluated

    corpus = Corpus.load(arguments.folder / "corpus", ["train", "dev"])
    found = Evaluated({"dev": synthetic_ranking(corpus.splits["dev"].Y, 0)}, corpus, EvaluateSettings(), 0)
    found.calibration.save(arguments.folder / "calibration.json")
    return {"threshold": round(found.calibration.threshold, 4)}


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of a ranker and a baseline on test, their differences, the pages and what is kept."""
    from cascadexml.evaluation.error_analysis import examples_page
    from cascadexml.evaluation.evaluated import Evaluated
    from cascadexml.evaluation.report import OURS, EvaluationReport
    from cascadexml.metrics import differences

    corpus, settings = Corpus.load(arguments.folder / "corpus"), EvaluateSettings()
    test, train = corpus.splits["test"], corpus.splits["train"]
    kept = {name: synthetic_ranking(corpus.splits[name].Y, 0) for name in ("dev", "test")}
    ours, other = (Evaluated(each, corpus, settings, 0) for each in (kept, {"test": synthetic_ranking(test.Y, 1)}))
    found = EvaluationReport(
        model=ours.report("test"),
        baselines={"popularity": other.report("test")},
        differences={
            "popularity": differences(kept["test"], other.rankings["test"], test.Y, train.Y, settings, seed=0)
        },
        dev=ours.report("dev").figures,
        choices=ours.attained(),
    )
    page = examples_page(ours.calibrated("test"), test, corpus.vocabulary, max(settings.ks), settings.examples)
    (arguments.folder / "examples.html").write_text(page, encoding="utf-8")
    found.save(arguments.folder / "metrics.json")
    seen = {name: Seen(ranking, None) for name, ranking in kept.items()}
    save_held_out(seen, Provenance("", corpus.fingerprint, DEPTH), arguments.folder / "held_out")
    return {OURS: round(found.model.figures["nDCG@5"], 4)}


def reference(arguments: argparse.Namespace) -> dict[str, Any]:
    """The reference of all held-out records that the default keeps."""
    from cascadexml.config import load_settings
    from cascadexml.monitoring.reference import make_reference

    made = make_reference(
        Corpus.load(arguments.folder / "corpus"),
        load_held_out(arguments.folder / "held_out"),
        Calibration.load(arguments.folder / "calibration.json"),
        records=load_settings(Path("params.yaml")).drift.reference_records,
        model_fingerprint=None,
    )
    made.save(arguments.folder / "reference")
    return {"records": len(made.profile), "words": len(made.words)}


def drift(arguments: argparse.Namespace) -> dict[str, Any]:
    """A batch of all test records against the reference; what ranks them is left out."""
    from cascadexml.config import load_settings
    from cascadexml.monitoring.drift import compare, decide, quality_figures
    from cascadexml.monitoring.profile import make_profile
    from cascadexml.monitoring.reference import Reference

    settings = load_settings(Path("params.yaml")).drift
    kept = Reference.load(arguments.folder / "reference")
    corpus = Corpus.load(arguments.folder / "corpus", ["test"])
    test, seen = corpus.splits["test"], load_held_out(arguments.folder / "held_out")["test"]
    ranking = Calibration.load(arguments.folder / "calibration.json").calibrated(seen.ranking)
    batch = make_profile(test.texts, ranking, None, kept.words, test.Y, corpus.vocabulary.L, {})
    checks = compare(kept, batch, settings, 0)
    quality_figures(kept.profile, batch, settings.draws, 0)
    return {"records": len(batch), "checks": len(checks), "verdict": decide(checks, settings)[0]}


def judge(arguments: argparse.Namespace) -> dict[str, Any]:
    """Two rankings of test, with slices."""
    from cascadexml.config import load_settings
    from cascadexml.evaluation.judge import judge as decide
    from cascadexml.evaluation.judge import slices_of

    settings, corpus = load_settings(Path("params.yaml")), Corpus.load(arguments.folder / "corpus", ["train", "test"])
    test, train = corpus.splits["test"], corpus.splits["train"]
    pair = [synthetic_ranking(test.Y, seed) for seed in (1, 0)]
    slices = slices_of(test.metadata, ["kind"])
    judgement = decide(*pair, test.Y, train.Y, slices, settings.judge, settings.evaluate, 0)
    return {"documents": judgement.documents, "slices": len(judgement.slices)}


def package(arguments: argparse.Namespace) -> dict[str, Any]:
    """The rankers over words as an artifact, with the evaluation and the reference."""
    from cascadexml.artifact import Origin
    from cascadexml.artifact.packing import pack
    from cascadexml.evaluation.report import EvaluationReport

    corpus, train = train_of(arguments)
    folder, others = arguments.folder, [arguments.folder / name for name in ("neighbours", "names")]
    pack(
        folder / "artifact",
        ranker=folder / "linear",
        others=others,
        vocabulary=corpus.vocabulary,
        label_counts=np.bincount(train.Y.indices, minlength=len(corpus.vocabulary)),
        calibration=Calibration.load(folder / "calibration.json"),
        metrics=EvaluationReport.load(folder / "metrics.json"),
        origin=Origin(name="benchmark-wide", documents={"train": len(train)}),
        reference=folder / "reference",
    )
    size = sum(file.stat().st_size for file in (folder / "artifact").rglob("*") if file.is_file())
    return {"GB on disk": round(size / 2**30, 2)}


PARTS = {
    part.__name__: part
    for part in (
        prepare,
        linear,
        neighbours,
        names,
        rank,
        search,
        calibrate,
        evaluate,
        reference,
        drift,
        judge,
        package,
    )
}

if __name__ == "__main__":
    main()
