"""Each script in benchmarks/ runs on small inputs and prints what its page reports. What it prints is not judged."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

import benchmarks.__main__ as whole_table
from benchmarks import (
    calibration,
    curve,
    drift,
    export,
    fresh,
    growth,
    indexers,
    judgement,
    label_trees,
    mixture,
    reading,
    shards,
    short,
    speed,
    steps,
    warm_start,
    wide,
)
from cascadexml import Predictor
from cascadexml.artifact import open_artifact
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.evaluation.held_out import Provenance, save_held_out, see
from cascadexml.labels.tree import derive_levels
from cascadexml.rankers.base import Documents
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.linear import LinearRanker
from cascadexml.rankers.neighbours import NearestNeighbours
from tests.conftest import sample_records
from tests.support.tiny_artifacts import MAX_LENGTH, pack_tiny, pack_tiny_blend, tiny_blend

pytestmark = pytest.mark.integration

Bench = Callable[..., list[dict[str, Any]]]


@dataclass(frozen=True)
class Inputs:
    """Where a project's parts lie; `base` is a model of the first half of the training records."""

    corpus: Path
    tokens: Path
    artifact: Path
    base: Path
    params: Path


def corpus_of(train: int) -> Corpus:
    """Real records; every second one of test came with a batch."""
    test = [record | {"batch": "first" if n % 2 else None} for n, record in enumerate(sample_records("test", 60))]
    tables = {"train": sample_records("train", train), "dev": sample_records("dev", 60), "test": test}
    return Corpus.from_records({name: pa.Table.from_pylist(rows) for name, rows in tables.items()}, {})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Inputs:
    folder = tmp_path_factory.mktemp("project")
    corpus = corpus_of(300)
    corpus.save(folder / "corpus")
    artifact = pack_tiny(folder / "new", corpus)
    tokenizer = load_tokenizer(str(folder / "new" / "encoder"))
    for name, split in corpus.splits.items():
        TokenStore.build(folder / "tokens" / name, split.texts, tokenizer, MAX_LENGTH)
    params = yaml.safe_load((repo_root / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"]["bootstrap_samples"] = 20
    params["train"]["device"] = "cpu"
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    base = pack_tiny(folder / "old", corpus_of(150))
    return Inputs(folder / "corpus", folder / "tokens", artifact, base, folder / "params.yaml")


@pytest.fixture
def bench(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    def run(script: ModuleType, *arguments: object) -> list[dict[str, Any]]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [str(script.__file__), *map(str, arguments)])
        script.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_drift(bench: Bench, inputs: Inputs, tmp_path: Path) -> None:
    batch = tmp_path / "later.jsonl"
    batch.write_text("".join(json.dumps(record) + "\n" for record in sample_records("dev", 30)), encoding="utf-8")
    lines = bench(drift, inputs.artifact, inputs.corpus, batch, "--draws", 2, "--params", inputs.params)
    assert [line["part"].split(",")[0].split("-")[0] for line in lines] == ["held out"] * 4 + ["later"] * 3
    for line in lines:
        assert line["records"] <= 60
        assert sum(line["verdicts"].values()) == pytest.approx(1)
        assert line["failed"].keys() == line["median"].keys()


def test_calibration(bench: Bench, inputs: Inputs, tmp_path: Path) -> None:
    corpus = Corpus.load(inputs.corpus)
    train = corpus.splits["train"]
    # A random network is right about nothing, and nothing could be fitted.
    NearestNeighbours.fit(Documents(train.texts), train.Y[:, : corpus.vocabulary.L].tocsr(), 5).save(tmp_path / "model")
    lines = bench(
        calibration, tmp_path / "model", inputs.corpus, "--tokens", inputs.tokens, "--deals", 1, "--device", "cpu"
    )
    assert [line["form"] for line in lines] == [form.name for form in calibration.FORMS]
    assert all(0 < line[name] < 1 for line in lines for name in ("ECE@1", "ECE@5", "ECE@10"))


def test_mixture(bench: Bench, inputs: Inputs, tmp_path: Path) -> None:
    corpus, artifact = Corpus.load(inputs.corpus), open_artifact(inputs.artifact)
    tiny_blend(corpus, CascadeRanker.load(artifact.ranker_bundle(), "cpu")).save(tmp_path / "model")
    flags = ("--tokens", inputs.tokens, "--deals", 1, "--device", "cpu")
    lines = bench(mixture, tmp_path / "model", inputs.corpus, *flags)
    assert [line["places"] for line in lines[:6]] == list(mixture.PLACES)
    assert [len(line["sources"]) for line in lines] == [4] * 6 + [3] * 3
    assert all(0 <= line[name] <= 1 for line in lines for name in (*mixture.SHOWN, "tail R@5", "ECE@5"))
    assert lines[0] | {"places": 0} != lines[5] | {"places": 0}, "the places make a difference"


def test_speed(bench: Bench, inputs: Inputs, tmp_path: Path) -> None:
    blend = pack_tiny_blend(tmp_path, Corpus.load(inputs.corpus))
    one, many = bench(speed, blend, inputs.corpus, "--texts", 8, "--rounds", 1, "--device", "cpu")
    assert (one["batch"], many["batch"]) == speed.BATCHES
    for line in (one, many):
        # These labels have no names; the index of vectors is read with the network's own and not timed apart.
        assert list(line["ms a text"]) == ["encoder", "answer", "network", "linear", "neighbours"]
        assert line["over the encoder"]["encoder"] == 1
        assert all(value > 0 for value in line["ms a text"].values())


def test_short(bench: Bench, inputs: Inputs, tmp_path: Path) -> None:
    blend = pack_tiny_blend(tmp_path, Corpus.load(inputs.corpus))
    lines = bench(short, blend, inputs.corpus, "--documents", 20, "--words", 1, 3, "--device", "cpu")
    assert [(line["words"], line["texts"]) for line in lines] == [(1, 20), (3, 20)]
    for line in lines:
        for each in (line["as it is"], line["without brevity"]):
            assert all(0 <= value <= 1 for value in each.values())
        # No label changes its place.
        assert line["as it is"]["right"] == line["without brevity"]["right"]


def test_export(bench: Bench, inputs: Inputs, tmp_path: Path) -> None:
    blend = pack_tiny_blend(tmp_path, Corpus.load(inputs.corpus))
    one, many, *rankers = bench(export, blend, inputs.corpus, "--texts", 8, "--rounds", 1)
    assert (one["batch"], many["batch"]) == export.BATCHES
    for line in (one, many):
        assert list(line["times as fast"]) == ["torch", "onnx", "int8"]
        assert line["times as fast"]["torch"] == 1
        assert all(value > 0 for value in line["ms a text"].values())
    assert [line["ranker"] for line in rankers] == ["cascade", "blend"]
    for line in rankers:
        assert line["texts"] == 60
        assert line["scores apart"]["torch"] == 0 < line["scores apart"]["int8"]
        assert line["scores apart"]["onnx"] < 1e-4


def test_fresh(bench: Bench, tmp_path: Path) -> None:
    tables = {"train": sample_records("train", 80), "dev": sample_records("dev", 5)}
    tables["test"] = [{**record, "id": f"again {record['id']}"} for record in tables["train"][:20]]
    tables["test"] += sample_records("test", 30)
    corpus = Corpus.from_records({name: pa.Table.from_pylist(rows) for name, rows in tables.items()}, {})
    train, test = corpus.splits["train"], corpus.splits["test"]
    # Who has read a text knows its labels: the nearest neighbour is the text itself.
    ranker = NearestNeighbours.fit(Documents(train.texts), train.Y[:, : corpus.vocabulary.L].tocsr(), 1)
    corpus.save(tmp_path / "corpus")
    save_held_out(
        {"test": see(ranker, Documents(test.texts), 20)}, Provenance("", corpus.fingerprint, 20), tmp_path / "seen"
    )
    (line,) = bench(fresh, tmp_path / "seen", tmp_path / "corpus")
    assert (line["records"], line["seen in train"]) == (50, 20)
    assert line["all"]["nDCG@20"] == pytest.approx(0.4 + 0.6 * line["fresh"]["nDCG@20"], abs=1e-3)


def test_steps(bench: Bench, inputs: Inputs) -> None:
    flags = ("--labels", 600, "--heads", "dense", "lean", "--batch", 8, "--tokens", 16, "--steps", 2)
    dense, lean = bench(steps, inputs.corpus, *flags)
    for line, kind in ((dense, "DenseHead"), (lean, "LeanHead")):
        assert line["heads"] == [kind] * (len(line["levels"]) + 1)
        assert len(line["each"]) == 3
        assert min(line["over the encoder"], line["answer to 1 over the encoder"], line["peak GB"]) > 0


def test_shards(bench: Bench, inputs: Inputs) -> None:
    flags = ("--labels", 600, "--heads", "lean", "--batch", 8, "--tokens", 16, "--steps", 2, "--processes", 1, 2)
    alone, whole, shared = bench(shards, inputs.corpus, *flags)
    assert [(line["processes"], line["sharded"]) for line in (alone, whole, shared)] == [(1, 0), (2, 0), (2, 1)]
    assert whole["bytes a process"] == alone["bytes a process"] * 2
    # All but the coarsest resolution, which has one parent, is halved.
    assert [2 * n / alone["bytes a process"][0] for n in shared["bytes a process"]] == pytest.approx([1, 1], rel=0.15)
    assert min(line["over one process"] for line in (alone, whole, shared)) > 0


def test_label_trees(bench: Bench, inputs: Inputs) -> None:
    (made,) = bench(label_trees, "--labels", 700, "--documents", 900)
    (dense,) = bench(label_trees, "--labels", 700, "--documents", 900, "--shape", "amazon-3m")
    assert 3 * made["uses"] < dense["uses"] < 900 * 40
    assert (made["labels"], made["documents"]) == (700, 900)
    assert made["cosine"] > made["random"] > 0
    (real,) = bench(label_trees, "--corpus", inputs.corpus, "--hops", 0)
    assert real["labels"] == Corpus.load(inputs.corpus).vocabulary.L
    assert list(real["seconds"]) == ["features", "tree"]
    assert whole_table.at(700, "minutes")([made]) == made["minutes"]


def test_indexers(inputs: Inputs, tmp_path: Path) -> None:
    """Without the foreign package: ours against clusters by chance stands in for theirs."""
    L = label_trees.hand_over(700, 900, None, tmp_path, label_trees.SHAPES["amazon-670k"])
    C = derive_levels(L, indexers.BRANCHING)[-1]
    ours = indexers.our_tree(tmp_path, C)
    np.save(tmp_path / "theirs.npy", np.random.default_rng(0).permutation(np.arange(L) % C))
    line = indexers.compare(tmp_path, [ours], [{"features": ours["features"], "tree": 3.0, "peak GB": 2.0}])
    assert (line["labels"], line["ours"]["clusters"], line["theirs"]["clusters"]) == (700, C, C)
    assert line["times the cosine"] > 1.02
    assert line["theirs"]["cosine"] == pytest.approx(line["theirs"]["random"], rel=0.02)
    assert line["times the memory"] == pytest.approx(ours["peak GB"] / 2, abs=0.01)


def test_reading(bench: Bench, inputs: Inputs) -> None:
    (line,) = bench(reading, inputs.corpus, "--texts", 400, "--rounds", 1)
    assert line["texts"] == 400
    assert 0 < line["rate over the bare tokenizer's"] < 10
    assert 0 < line["batch over the encoder's step"] < 1


def test_growth(bench: Bench, tmp_path: Path) -> None:
    made = [{"labels": 10**n, "seconds a step": 2.0 * 10 ** (n / 2), "peak GB": 3.0} for n in (3, 4, 6)]
    made += [{"labels": 10**n, "seconds": {"walk": 1.0, "tree": 9.0 ** (n - 3) - 1}, "peak GB": 1} for n in (3, 4)]
    (tmp_path / "lines").write_text("".join(json.dumps(line) + "\n" for line in made), encoding="utf-8")
    lines = bench(growth, tmp_path / "lines", "--picture", tmp_path / "growth.svg")
    found = {line["cost"]: line["exponents"] for line in lines}
    assert found == {
        "seconds a training step": [0.5, 0.5],
        "GB of a training": [0, 0],
        "seconds of the label side": [0.95],
        "GB of the label side": [0],
    }
    assert "seconds a training step" in (tmp_path / "growth.svg").read_text(encoding="utf-8")


def test_the_table_of_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What scripts print stands against what is wanted; one that fails is named, and the others stand."""
    monkeypatch.setattr(
        whole_table,
        "SCRIPTS",
        {
            "label_trees": whole_table.Script(("--labels", "600", "--documents", "700", "--hops", "0"), ()),
            "growth": whole_table.Script(("{out}/nothing.jsonl", "--picture", "{out}/growth.svg"), ()),
        },
    )
    rows = [
        whole_table.Row("leaf clusters", "≤ 2", 2, "label_trees", whole_table.at(600, "clusters")),
        whole_table.Row("their cosine", "≥ 0.1", 0.1, "label_trees", whole_table.first("cosine")),
        whole_table.Row("of other numbers", "≤ 1", 1, "label_trees", whole_table.at(601, "cosine")),
        whole_table.Row("growth", "≤ 1", 1, "growth", whole_table.steepest("anything")),
    ]
    monkeypatch.setattr(whole_table, "ROWS", rows)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        whole_table.main()
    told = capsys.readouterr()
    (line,) = map(json.loads, (tmp_path / "label_trees.jsonl").read_text(encoding="utf-8").splitlines())
    assert f"| leaf clusters | ≤ 2 | {line['clusters']:g} | missed |" in told.out
    assert f"| their cosine | ≥ 0.1 | {line['cosine']:g} | reached |" in told.out
    assert "other numbers" not in told.out
    assert "error: growth failed" in told.err


def test_curve(bench: Bench, tmp_path: Path) -> None:
    trials = [("a=1", 3.0, 0.5), ("a=1", 5.0, 0.7), ("a=2", 9.0, 0.8), ("a=3", None, 0.9)]
    lines = [{"settings": [a], "minutes": minutes, "dev": {"nDCG@20": value}} for a, minutes, value in trials]
    (tmp_path / "lines").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    bench(curve, tmp_path / "lines", tmp_path / "curve.svg")
    drawn = (tmp_path / "curve.svg").read_text(encoding="utf-8")
    assert [f"a={n}" in drawn for n in (1, 2, 3)] == [True, True, False]


def test_judgement(bench: Bench, inputs: Inputs, tmp_path: Path) -> None:
    ranking = Predictor.load(inputs.artifact, "cpu").rank(Corpus.load(inputs.corpus).splits["test"].texts, 100)
    ranking.save(tmp_path / "ranking.npz")
    flags = ("--noise", 0.0, 0.6, "--draws", 3, "--params", inputs.params)
    same, noisy = bench(judgement, tmp_path / "ranking.npz", inputs.corpus, *flags)
    # Without noise both are the one ranking: nothing is better and nothing falls.
    assert (same["shared_first_5"], same["better"]) == (1.0, 0.0)
    assert not any(same["guards_fell"].values())
    assert noisy["shared_first_5"] < 1


def test_warm_start_remade(bench: Bench, inputs: Inputs) -> None:
    places = (inputs.artifact, inputs.corpus, inputs.tokens)
    lines = bench(warm_start, "--params", inputs.params, "remade", *places, "--labels", 20)
    kinds = [line["rows"] for line in lines if "rows" in line]
    assert kinds == ["as trained", "made anew", "made anew at full length", "none"]
    assert lines[-1]["R@10 of these labels"] == 0


def test_warm_start_untrained(bench: Bench, inputs: Inputs) -> None:
    lines = bench(warm_start, "--params", inputs.params, "untrained", inputs.base, inputs.artifact, inputs.corpus)
    assert [(line["model"], line["origin"]) for line in lines] == [
        (model, origin) for model in ("base", "untrained") for origin in ("source", "batches")
    ]
    assert {line["documents"] for line in lines} == {30}
    assert all(line["new labels"] > 0 for line in lines)
    assert [line["R@10 of these labels"] for line in lines[:2]] == [0, 0]


WIDE = ("--labels", 400, "--documents", 500, "--held-out", 90, "--fitted", 60, "--texts", 70)


def test_wide(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for part in wide.PARTS:
        (found[part],) = bench(wide, *WIDE, "--folder", tmp_path, "--part", part)
    assert found["prepare"]["documents"] == {"train": 500, "dev": 90, "test": 90}
    assert (found["linear"]["labels"], found["linear"]["terms"]) == (60, found["neighbours"]["terms"])
    assert LinearRanker.load(tmp_path / "linear").L == NearestNeighbours.load(tmp_path / "neighbours").L == 400
    assert all(value > 0 for kind in ("linear", "neighbours", "names") for value in found["rank"][kind].values())
    assert (found["reference"]["records"], found["drift"]["records"]) == (180, 90)
    assert open_artifact(tmp_path / "artifact").meta["labels"] == 400
    asked = [row for row in whole_table.ROWS if row.script == "wide"]
    assert {row.read(list(found.values())) for row in asked} == {None}, "a smaller set answers none of the rows"
    monkeypatch.setattr(whole_table, "FULL", 400)
    assert all(row.read(list(found.values())) is not None for row in asked)


def test_wide_runs_each_part_in_a_process(repo_root: Path, tmp_path: Path) -> None:
    parts = ("prepare", "names", "judge")
    words = [sys.executable, "-m", "benchmarks.wide", *map(str, WIDE), "--folder", str(tmp_path), "--only", *parts]
    ended = subprocess.run(words, cwd=repo_root, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["part"] for line in lines] == list(parts)
    assert all(line["peak GB"] > 0 for line in lines)
