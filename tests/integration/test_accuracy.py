"""The comparison with other rankers on a small input: what it prints is computed a second time, from the rankings."""

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from benchmarks import accuracy
from cascadexml.data.corpus import Corpus
from cascadexml.rankers.base import Documents
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import NO_LABEL, Ranking
from tests.conftest import sample_records
from tests.support.tiny_artifacts import pack_tiny

pytestmark = pytest.mark.integration

SIZES = {"train": 1500, "dev": 60, "test": 200}
K = 30
Printed = tuple[dict[str, dict[str, str]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A checkout whose model ranks labels by how often train has them."""
    folder = tmp_path_factory.mktemp("project")
    tables = {name: pa.Table.from_pylist(sample_records(name, size)) for name, size in SIZES.items()}
    corpus = Corpus.from_records(tables, {})
    corpus.save(folder / "data/interim/corpus")
    params = yaml.safe_load((repo_root / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"]["top_k"], params["train"]["device"] = K, "cpu"
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (folder / "data/interim/held_out").mkdir(parents=True)
    ranker = Popularity.fit(corpus.splits["train"].Y[:, : corpus.vocabulary.L].tocsr())
    ranker.rank(Documents(corpus.splits["test"].texts), K).save(folder / "data/interim/held_out/test.npz")
    return folder


@pytest.fixture
def bench(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def started(out: Path, *arguments: object) -> str:
        capsys.readouterr()
        words = ["accuracy", "--run", run, "--out", out, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        accuracy.main()
        return capsys.readouterr().out

    return started


def read(printed: str) -> Printed:
    """The table as ranker → line → cell, and the objects below it."""
    lines = printed.splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    columns = {ranker: {row[0]: row[i] for row in table[2:]} for i, ranker in enumerate(table[0]) if i}
    return columns, [json.loads(line) for line in lines if line.startswith("{")]


def by_document(name: str, ranking: Ranking, Y: Any, weights: Any) -> tuple[list[float], list[float]]:
    """A figure's parts, document by document: their sums divided are the figure."""
    family, k = name.split("@")
    above, below = [], []
    for n, found in enumerate(ranking.labels):
        true = set(Y.indices[Y.indptr[n] : Y.indptr[n + 1]])
        places = [i for i, label in enumerate(found[: int(k)]) if label in true]
        gains = [1 / math.log2(i + 2) for i in range(int(k))]
        if family == "P":
            above.append(len(places) / int(k))
        elif family == "R":
            above.append(len(places) / len(true))
        elif family == "nDCG":
            above.append(sum(gains[i] for i in places) / sum(gains[: len(true)]))
        else:
            above.append(sum(weights[found[i]] for i in places))
        best = sorted((weights[label] for label in true), reverse=True)[: int(k)]
        below.append(sum(best) if family == "PSP" else 1.0)
    return above, below


def inverse_propensities(Y: Any) -> Any:
    uses = np.asarray(Y.sum(axis=0)).ravel()
    C = (math.log(Y.shape[0]) - 1) * (1.5 + 1) ** 0.55
    return 1 + C * (uses + 1.5) ** -0.55


def test_the_figures_are_those_of_the_rankings(bench: Callable[..., str], run: Path, tmp_path: Path) -> None:
    columns, lines = read(bench(tmp_path, "--only", "neighbours"))
    assert [*columns] == [line["ranker"] for line in lines] == ["CascadeXML", "TF-IDF nearest neighbours"]
    ours, theirs = columns.values()
    corpus = Corpus.load(run / "data/interim/corpus")
    Y, weights = corpus.splits["test"].Y, inverse_propensities(corpus.splits["train"].Y)
    rankings = [Ranking.load(run / "data/interim/held_out/test.npz"), Ranking.load(tmp_path / "neighbours/test.npz")]
    for name in ("P@1", "P@3", "P@5", "nDCG@5", "nDCG@20", "R@20", "PSP@1", "PSP@5"):
        (mine, below), (other, _) = (by_document(name, each, Y, weights) for each in rankings)
        figures = [100 * sum(part) / sum(below) for part in (mine, other)]
        shown, difference, low, high = map(float, re.findall(r"[+-]?[\d.]+", theirs[name]))
        assert [float(ours[name]), shown] == pytest.approx(figures, abs=0.0051)
        assert difference == pytest.approx(figures[0] - figures[1], abs=0.0051)
        # By the delta method: the bootstrap of 200 documents comes near it.
        each = (np.array(mine) - other) - (figures[0] - figures[1]) / 100 * np.array(below)
        half = 100 * 1.96 * each.std() * math.sqrt(len(each)) / sum(below)
        assert [low, high] == pytest.approx([difference - half, difference + half], abs=0.25 * half + 0.05)


def test_the_bands_share_out_the_true_labels(bench: Callable[..., str], run: Path, tmp_path: Path) -> None:
    columns, lines = read(bench(tmp_path, "--only", "neighbours"))
    corpus = Corpus.load(run / "data/interim/corpus")
    uses = np.asarray(corpus.splits["train"].Y.sum(axis=0)).ravel()
    bands = {"head": uses >= 100, "torso": (uses >= 10) & (uses < 100), "tail": (uses > 0) & (uses < 10)}
    Y, found = corpus.splits["test"].Y, Ranking.load(tmp_path / "neighbours/test.npz").labels[:, :5]
    for band, labels in (bands | {"unseen": uses == 0}).items():
        pairs = [(n, label) for n, label in zip(*Y.nonzero(), strict=True) if labels[label]]
        cell, value = columns["TF-IDF nearest neighbours"][f"R@5, {band}"], lines[1]["R@5 by band"]["test"][band]
        if not pairs:
            assert (cell, value) == ("-", None)
            continue
        recall = sum(label in found[n] for n, label in pairs) / len(pairs)
        assert float(cell) == pytest.approx(100 * recall, abs=0.0051)
        assert value == pytest.approx(recall)


def test_what_is_there_is_not_made_again(bench: Callable[..., str], run: Path, tmp_path: Path) -> None:
    bench(tmp_path, "--only", "neighbours")
    file = tmp_path / "neighbours/test.npz"
    before = file.stat().st_mtime_ns
    # A ranking that no neighbour gave: it is taken as it lies there.
    worst = Ranking(np.full((SIZES["test"], K), NO_LABEL, np.int32), np.full((SIZES["test"], K), -np.inf, np.float32))
    worst.save(file)
    columns, _ = read(bench(tmp_path, "--only", "neighbours"))
    assert columns["TF-IDF nearest neighbours"]["P@1"].startswith("0.00 ")
    # Another setting is another answer.
    params = yaml.safe_load((run / "params.yaml").read_text(encoding="utf-8"))
    params["blend"]["neighbours"] += 1
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (changed / "data").symlink_to(run / "data")
    columns, _ = read(bench(tmp_path, "--only", "neighbours", "--run", changed))
    assert not columns["TF-IDF nearest neighbours"]["P@1"].startswith("0.00 ")
    assert file.stat().st_mtime_ns > before
    assert {path.name for path in tmp_path.iterdir()} == {"neighbours", "changed"}


def test_the_speed_of_the_model_is_its_artifacts(
    bench: Callable[..., str], run: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    columns, (line, _) = read(bench(tmp_path, "--only", "neighbours"))
    assert (columns["CascadeXML"]["texts a second"], line["texts_per_second"]) == ("-", None)
    whole = tmp_path_factory.mktemp("whole")
    (whole / "data/models").mkdir(parents=True)
    for name in ("params.yaml", "data/interim", "data/reports"):
        (whole / name).symlink_to(run / name)
    artifact = pack_tiny(tmp_path_factory.mktemp("tiny"), Corpus.load(run / "data/interim/corpus"))
    (whole / "data/models/artifact").symlink_to(artifact)
    again, (line, _) = read(bench(tmp_path, "--only", "neighbours", "--run", whole))
    assert line["texts_per_second"] > 0
    # Its figures stay those of the ranking that evaluate left.
    assert again["CascadeXML"]["P@1"] == columns["CascadeXML"]["P@1"]


def test_further_rankings_stand_beside_it(bench: Callable[..., str], run: Path, tmp_path: Path) -> None:
    same = f"the same={run / 'data/interim/held_out/test.npz'}"
    columns, _ = read(bench(tmp_path, "--only", "neighbours", "--ranking", same))
    assert [*columns] == ["CascadeXML", "the same", "TF-IDF nearest neighbours"]
    assert columns["the same"]["P@1"] == f"{columns['CascadeXML']['P@1']} (+0.00: 0.0 to 0.0)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "bert"), "there is no peer 'bert': expected one of neighbours, xr-linear, "),
        (("--ranking", "x.npz"), "--ranking 'x.npz' is not of the form NAME=FILE.npz: "),
        (("--ranking", "short={short}"), "the ranking of 'short' is not one of the 200 documents of test and the "),
        (("--run", "{nothing}"), "params.yaml"),
    ],
)
def test_mistakes_are_told_in_a_line(
    bench: Callable[..., str],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    whole = Ranking.load(run / "data/interim/held_out/test.npz")
    Ranking(whole.labels[1:], whole.scores[1:]).save(tmp_path / "short.npz")
    places = {"short": tmp_path / "short.npz", "nothing": tmp_path / "nothing"}
    with pytest.raises(SystemExit) as ended:
        bench(tmp_path / "out", "--only", "neighbours", *(each.format(**places) for each in arguments))
    assert ended.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
