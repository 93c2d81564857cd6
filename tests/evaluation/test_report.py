"""metrics.json reads back as it was written."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cascadexml.config import EvaluateSettings
from cascadexml.errors import DataError
from cascadexml.evaluation.calibration import Calibration, calibration_report
from cascadexml.evaluation.report import HEADLINES, Attained, ChoicesReport, EvaluationReport, caption, in_a_line
from cascadexml.metrics import differences, evaluate
from cascadexml.ranking import Ranking


@pytest.fixture
def report() -> EvaluationReport:
    """Of random rankings; no label of one bin is true on test."""
    rng = np.random.default_rng(0)
    Y = sparse.csr_matrix((rng.random((40, 12)) < 0.2).astype(np.float32))
    Y_train = sparse.csr_matrix((rng.random((60, 12)) < np.linspace(0.05, 0.5, 12)).astype(np.float32))
    settings = EvaluateSettings(ks=[1, 5], bootstrap_samples=20, torso=5, head=1000)
    ours, theirs = (Ranking.from_scores(rng.random((40, 12)), 10) for _ in range(2))
    return EvaluationReport(
        evaluate(ours, Y, Y_train, settings, threshold=0.5),
        {"popularity": evaluate(theirs, Y, Y_train, settings)},
        {"popularity": differences(ours, theirs, Y, Y_train, settings)},
        {"P@1": 0.25},
        calibration_report(Calibration(0.8, -0.2, 0.3), ours, Y),
        ChoicesReport(0.25, {"0.5": {"head": Attained(0.4, 7, 0.5, 0.1), "tail": Attained(None, 0, 0.0, 0.0)}}),
    )


def test_what_is_written_reads_back_equal(report: EvaluationReport, tmp_path: Path) -> None:
    assert report.model.bins["head"].pairs == 0
    report.save(tmp_path / "metrics.json")
    assert EvaluationReport.load(tmp_path / "metrics.json") == report
    assert EvaluationReport.from_json(report.to_json()) == report
    bare = EvaluationReport(report.model)
    assert EvaluationReport.from_json(bare.to_json()) == bare


def test_a_run_on_the_sample_reads_and_writes_to_the_same_bytes(repo_root: Path, tmp_path: Path) -> None:
    kept = repo_root / "data" / "reports" / "metrics.json"
    report = EvaluationReport.load(kept)
    report.save(tmp_path / "metrics.json")
    assert (tmp_path / "metrics.json").read_bytes() == kept.read_bytes()
    plain = json.loads(kept.read_text(encoding="utf-8"))
    assert {name: dict(each.figures) for name, each in report.baselines.items()} == plain["baselines"]
    assert report.model.intervals["P@1"] == tuple(plain["intervals"]["P@1"])
    assert report.model.bins["tail"].figures["R@5"] == plain["bins"]["tail"]["R@5"]
    found = report.differences["popularity"]["P@1"]
    assert [found.difference, found.p_value] == [
        plain["differences"]["popularity"]["P@1"][key] for key in ("difference", "p_value")
    ]
    assert set(HEADLINES) <= set(report.model.figures)
    told = ["CascadeXML", "network alone", "linear classifiers", "TF-IDF nearest neighbours", "label names"]
    assert [caption(name) for name in report.rankers] == [*told, "label popularity"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[1]",
        '{"bins": {"tail": {}}}',
        '{"calibration": {"slope": 1}}',
        '{"choices": {"macro_F1": 0.1, "precision": {"0.5": {"head": {"given": 1}}}}}',
    ],
)
def test_what_is_no_evaluation_is_refused_by_name(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"metrics\.json cannot be read as an evaluation .*: run dvc repro evaluate"):
        EvaluationReport.load(path)


def test_a_line_of_figures_has_those_that_were_measured_in_the_order_of_the_tables() -> None:
    figures = {"micro_F1": 0.25, "PSP@1": 0.125, "P@1": 0.5, "R@1": 0.75}
    assert in_a_line(figures) == "P@1 0.5000, PSP@1 0.1250, micro_F1 0.2500"
    assert in_a_line({}) == ""
