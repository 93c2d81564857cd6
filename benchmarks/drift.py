"""How well drift is told from chance: false alarms on held-out records, and the verdicts on later batches.

    python benchmarks/drift.py ARTIFACT CORPUS BATCH... [--draws 100] [--params params.yaml]

The held-out records (dev and test) of the corpus are cut in half at random. One half is the reference; random parts of
the other half, on which no threshold was set, are compared with it, and so are the batches and random parts of them.
One JSON line a kind of part: the shares of verdicts, with labels and without, and how often each check failed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cascadexml.artifact.artifact import open_artifact
from cascadexml.config import DriftSettings, load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.monitoring.batch import read_batch
from cascadexml.monitoring.comparison import profile_records
from cascadexml.monitoring.drift import compare, decide
from cascadexml.monitoring.profile import Profile
from cascadexml.monitoring.reference import HELD_OUT, Reference
from cascadexml.monitoring.text_statistics import hash_words
from cascadexml.monitoring.verdict import Check
from cascadexml.progress import console_progress

HALVES_SEED = 7
NEED_LABELS = ("label", "quality")


def main() -> None:
    """Print one line a kind of part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("batches", nargs="+")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    artifact, corpus = open_artifact(arguments.artifact), Corpus.load(arguments.corpus)
    train = corpus.splits["train"]
    words = hash_words(train.texts)

    def profile(records: pa.Table) -> Profile:
        return profile_records(records, artifact, words, settings.drift.metadata, progress=console_progress())

    held_out = {name: profile(records_of(corpus, name)) for name in HELD_OUT}
    rng = np.random.default_rng(HALVES_SEED)
    known, others = {}, {}
    for name, each in held_out.items():
        order = rng.permutation(len(each))
        known[name], others[name] = (each.take(np.sort(half)) for half in np.array_split(order, 2))
    reference = Reference(joined(list(known.values())), words, corpus.train_labels, {})
    pool = joined(list(others.values()))

    def report(part: str, whole: Profile, n: int, draws: int) -> None:
        """Compare `draws` random parts of n records each, or the whole where that is all there is."""
        random = np.random.default_rng([n, *part.encode()])
        draws, n = (draws, n) if n < len(whole) else (1, len(whole))
        parts = [np.sort(random.choice(len(whole), n, replace=False)) for _ in range(draws)]
        found = [compare(reference, whole.take(rows), settings.drift, settings.seed) for rows in parts]
        print(json.dumps(line(part, n, found, settings.drift)), flush=True)

    for n in (500, 1500):
        report("held out", pool, n, arguments.draws)
    for name in HELD_OUT:
        report(f"held out, {name} alone", others[name], 500, arguments.draws)
    for source in arguments.batches:
        batch = read_batch(Path(source), source, settings.download, settings.validate)
        seen = profile(batch.accepted)
        report(batch.id, seen, len(seen), 1)
        for n in (500, 200):
            report(batch.id, seen, n, arguments.draws // 2)


def records_of(corpus: Corpus, name: str) -> pa.Table:
    """RawRecords of a split, as the row rules pass them."""
    split, ids = corpus.splits[name], corpus.vocabulary.ids
    labels = [[ids[row] for row in rows] for rows in np.split(split.Y.indices, split.Y.indptr[1:-1])]
    table = pa.table({"text": split.texts, "labels": pa.array(labels, pa.list_(pa.string()))})
    for column in split.metadata.column_names:
        table = table.append_column(column, split.metadata.column(column))
    return table


def joined(parts: Sequence[Profile]) -> Profile:
    """The records of several profiles of one model as one; label matrices may differ in width."""
    matrices = [part.Y.tocoo() for part in parts if part.Y is not None]
    V = max(Y.shape[1] for Y in matrices)
    starts = np.cumsum([0, *(Y.shape[0] for Y in matrices)])
    rows = np.concatenate([Y.row + start for Y, start in zip(matrices, starts[:-1], strict=True)])
    Y = type(parts[0].Y)(
        (np.ones(rows.size, np.float32), (rows, np.concatenate([Y.col for Y in matrices]))), shape=(starts[-1], V)
    )
    table = pa.concat_tables([part.table for part in parts]).combine_chunks()
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Profile(table, np.concatenate(vectors) if vectors else None, Y)


def line(part: str, n: int, found: Sequence[Sequence[Check]], settings: DriftSettings) -> dict[str, object]:
    """What is said of one kind of part."""
    unlabelled = [[check for check in checks if check.kind not in NEED_LABELS] for checks in found]
    names = [check.name for check in found[0] if check.kind != "validity"]
    by_name = [{check.name: check for check in checks} for checks in found]
    return {
        "part": part,
        "records": n,
        "draws": len(found),
        "verdicts": shares([decide(checks, settings)[0] for checks in found]),
        "verdicts_without_labels": shares([decide(checks, settings)[0] for checks in unlabelled]),
        "failed": {name: round(float(np.mean([checks[name].failed for checks in by_name])), 3) for name in names},
        "median": {name: round(float(np.median([checks[name].value for checks in by_name])), 4) for name in names},
    }


def shares(verdicts: Sequence[str]) -> dict[str, float]:
    """Each verdict's share."""
    return {verdict: round(verdicts.count(verdict) / len(verdicts), 3) for verdict in sorted(set(verdicts))}


if __name__ == "__main__":
    main()
