"""The stage on real records with a tiny random model: everything is written, and what is written agrees."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dvclive import Live

from cascadexml.config import EvaluateSettings, TrainSettings
from cascadexml.data.corpus import Corpus, Split
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import DataError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.choices import choices_report
from cascadexml.evaluation.report import EvaluationReport
from cascadexml.metrics import evaluate
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.ranking import Ranking
from stages import BLEND, CALIBRATION, CORPUS, HELD_OUT, REPORTS, TOKENS
from stages.evaluate import main
from tests.support.params import SETTINGS
from tests.support.tiny_artifacts import MAX_LENGTH, tiny_blend, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder

KNOBS = EvaluateSettings(ks=[1, 3, 5], top_k=30, bootstrap_samples=20, torso=2, head=5, examples=3)
KEYS = {"figures": "test", "intervals": "intervals", "bins": "bins"}
CHOSEN = replace(SETTINGS, evaluate=KNOBS, train=TrainSettings(device="cpu"))


def lay_out(corpus):
    """What the stages before would have left in the current folder."""
    encoder = make_tiny_encoder("bert", Path("encoder"), layers=2)
    tokenizer = load_tokenizer(str(encoder))
    corpus.save(CORPUS)
    for name, split in corpus.splits.items():
        TokenStore.build(TOKENS / name, split.texts, tokenizer, MAX_LENGTH, processes=1)
    tiny_blend(corpus, CascadeRanker(tiny_model(corpus, encoder), tokenizer, MAX_LENGTH)).save(BLEND)


@pytest.fixture(scope="module")
def evaluated(small_corpus, tmp_path_factory):
    """The project's folder after the stage has run."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lay_out(small_corpus)
        with Live(str(REPORTS / "training"), dvcyaml=None, save_dvc_exp=False) as live:
            for step in (1, 2):
                live.step = step
                live.log_metric("loss/total", 1 / step)
                live.log_metric("dev/P@1", 0.1 * step)
        main(CHOSEN)
    return folder


def test_figures_equal_those_of_the_ranking_that_is_kept(evaluated, small_corpus):
    report = json.loads((evaluated / REPORTS / "metrics.json").read_text())
    calibration = Calibration.load(evaluated / CALIBRATION)
    ranking = calibration.calibrated(Ranking.load(evaluated / HELD_OUT / "test.npz"))
    test, train = small_corpus.splits["test"], small_corpus.splits["train"]
    again = evaluate(ranking, test.Y, train.Y, KNOBS, threshold=calibration.threshold)
    assert {name: report[key] for name, key in KEYS.items()} == again.to_json()
    assert report["calibration"]["threshold"] == calibration.threshold
    for family in ("P", "R", "F1", "nDCG", "PSP", "PSnDCG", "coverage", "catalogue_coverage"):
        for k in KNOBS.ks:
            assert 0 <= report["test"][f"{family}@{k}"] <= 1
    assert {"micro_F1", "macro_F1"} <= set(report["test"])


def test_baselines_are_measured_alike(evaluated):
    report = json.loads((evaluated / REPORTS / "metrics.json").read_text())
    assert set(report["baselines"]) == {"cascade", "linear", "vectors", "names", "tfidf_knn", "popularity"}
    for name, figures in report["baselines"].items():
        assert set(figures) == set(report["test"])
        assert set(report["baseline_bins"][name]) == {"head", "torso", "tail", "unseen"}
        for metric, (low, high) in report["baseline_intervals"][name].items():
            assert low <= figures[metric] <= high
            if "@" in metric:
                difference = report["differences"][name][metric]["difference"]
                assert difference == pytest.approx(report["test"][metric] - figures[metric])
    assert report["baselines"]["tfidf_knn"]["P@1"] > report["baselines"]["popularity"]["P@1"]
    assert set(report["dev"]) == set(report["test"])


def test_tables_and_pictures_are_written(evaluated):
    folder = evaluated / REPORTS / "evaluation"
    report = json.loads((evaluated / REPORTS / "metrics.json").read_text())
    tables = {file.stem: list(csv.DictReader(file.read_text().splitlines())) for file in folder.glob("*.csv")}
    assert set(tables) == {"abstention", "baselines", "bins", "reliability", "scores"}
    assert [float(row["CascadeXML"]) for row in tables["baselines"]] == pytest.approx(
        [report["test"][f"P@{k}"] for k in KNOBS.ks], rel=1e-5
    )
    assert sum(int(row["size"]) for row in tables["reliability"]) == 60 * 5
    assert sum(int(row["right"]) + int(row["wrong"]) for row in tables["scores"]) == 60 * 5
    assert [float(row["kept"]) for row in tables["abstention"]] == pytest.approx([i / 50 for i in range(1, 51)])
    assert float(tables["abstention"][-1]["all"]) == pytest.approx(report["test"]["P@5"], rel=1e-5)
    pictures = {"abstention", "precision_at_k", "recall_by_frequency", "reliability", "scores", "training"}
    assert {file.stem for file in folder.glob("*.png")} == pictures
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in folder.glob("*.png"))
    assert (evaluated / REPORTS / "examples.html").read_text().count("<article>") == 6


def test_thresholds_by_label_are_chosen_on_dev_and_told_of_on_test(evaluated, small_corpus):
    calibration = Calibration.load(evaluated / CALIBRATION)
    assert (calibration.choices.torso, calibration.choices.head) == (KNOBS.torso, KNOBS.head)
    ranking = calibration.calibrated(Ranking.load(evaluated / HELD_OUT / "test.npz"))
    found = EvaluationReport.load(evaluated / REPORTS / "metrics.json")
    uses = np.bincount(small_corpus.splits["train"].Y.indices, minlength=len(small_corpus.vocabulary))
    assert found.choices == choices_report(calibration.choices, ranking, small_corpus.splits["test"].Y, uses)
    given = [found.choices.precision[wanted]["head"].given for wanted in ("0.5", "0.7", "0.95")]
    assert given == sorted(given, reverse=True)
    assert found.choices.macro_F1 > 0


def test_the_same_inputs_give_the_same_bytes(evaluated, monkeypatch):
    def content():
        files = [CALIBRATION, *(f for f in REPORTS.rglob("*") if f.is_file() and "training/" not in f.as_posix())]
        return {file: file.read_bytes() for file in files}

    monkeypatch.chdir(evaluated)
    first = content()
    main(CHOSEN)
    assert content() == first
    assert len(first) > 10


def test_without_dev_the_network_answers_and_its_scores_are_used_as_they_are(small_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = {name: split for name, split in small_corpus.splits.items() if name != "dev"}
    lay_out(Corpus(splits, small_corpus.vocabulary))
    main(CHOSEN)
    assert Calibration.load(CALIBRATION) == Calibration()
    report = json.loads((REPORTS / "metrics.json").read_text())
    assert report["dev"] == {}
    assert report["test"]["nDCG@5"] == report["baselines"]["cascade"]["nDCG@5"]
    assert not (REPORTS / "evaluation" / "training.png").exists()


def test_without_test_documents_it_says_so(small_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = small_corpus.splits["test"]
    none = Split([], [], test.Y[:0], test.metadata.slice(0, 0))
    Corpus({**small_corpus.splits, "test": none}, small_corpus.vocabulary).save(CORPUS)
    with pytest.raises(DataError, match="no test document"):
        main(CHOSEN)
    assert not Path(REPORTS).exists()
