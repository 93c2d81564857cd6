"""Thresholds by label frequency: chosen by band, kept, applied, and told of."""

import json
import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import f1_score

from cascadexml.errors import PredictionError
from cascadexml.evaluation.choices import BANDS, PRECISIONS, Choices, choices_report, choose
from cascadexml.evaluation.report import ChoicesReport
from cascadexml.evaluation.thresholds import NEVER, precision_thresholds
from cascadexml.ranking import Ranking

USES = np.array([200, 150, 100, 99, 50, 10, 9, 1, 0, 0])
BAND = np.array(["head"] * 3 + ["torso"] * 3 + ["tail"] * 4)


def drawn(N: int, seed: int) -> tuple[Ranking, sparse.csr_matrix]:
    """A ranking of the first 9 labels by their true probabilities, and labels drawn from them; rare ones are rarer."""
    rng = np.random.default_rng(seed)
    P = np.clip(rng.beta(0.6, 1.0, (N, 10)) * np.array([1] * 3 + [0.9] * 3 + [0.6] * 4), 1e-3, 0.999)
    ranking = Ranking.from_scores(P[:, :9].astype(np.float32), 9)
    return ranking, sparse.csr_matrix((rng.random((N, 10)) < P).astype(np.float32))


@pytest.fixture(scope="module")
def choices() -> Choices:
    return choose(*drawn(600, 0), USES, torso=10, head=100)


def scores_of(ranking: Ranking) -> np.ndarray[Any, Any]:
    """(N, 10) the ranking's scores by label, 0 where it has none."""
    scores = np.zeros((len(ranking.labels), 10))
    np.put_along_axis(scores, ranking.labels, ranking.scores, axis=1)
    return scores


def test_each_band_is_chosen_for_by_itself(choices: Choices) -> None:
    ranking, Y = drawn(600, 0)
    scores, truth = scores_of(ranking), Y.toarray() > 0
    for band in BANDS:
        mine = (BAND == band) & (np.arange(10) < 9)
        expected = precision_thresholds(scores[:, mine].ravel(), truth[:, mine].ravel(), PRECISIONS)
        assert choices.precision[band] == pytest.approx(expected)
    assert choices.precision["tail"][-1] == NEVER > choices.precision["head"][-1]


def test_no_other_threshold_has_a_greater_macro_f1(choices: Choices) -> None:
    ranking, Y = drawn(600, 0)
    scores, truth = scores_of(ranking), Y.toarray() > 0

    def macro(threshold: float) -> float:
        return float(f1_score(truth, scores >= threshold, average="macro", zero_division=0))

    found = macro(choices.macro)
    assert found >= max(macro(float(threshold)) for threshold in np.linspace(0.01, 0.99, 99))
    assert choices_report(choices, ranking, Y, USES).macro_F1 == pytest.approx(found)


def test_a_precision_between_two_takes_the_threshold_of_the_higher_one(choices: Choices) -> None:
    at = PRECISIONS.index(0.8)
    for wanted, place in ((0.8, at), (0.78, at), (0.801, at + 1), (0.01, 0)):
        assert choices.at_precision(wanted) == {band: choices.precision[band][place] for band in BANDS}
    assert set(choices.at_precision(0.96).values()) == {NEVER}


def test_what_dev_reached_holds_about_as_well_elsewhere(choices: Choices) -> None:
    ranking, Y = drawn(4000, 1)
    scores, truth = scores_of(ranking), Y.toarray() > 0
    found = choices_report(choices, ranking, Y, USES)
    assert list(found.precision) == [f"{wanted:g}" for wanted in PRECISIONS]
    for wanted, bands in found.precision.items():
        for band, attained in bands.items():
            least = choices.at_precision(float(wanted))[band]
            taken = (scores >= least) & (BAND == band)
            assert attained.given == taken.sum()
            assert attained.recall == pytest.approx((truth & taken).sum() / truth[:, BAND == band].sum())
            if least == NEVER:
                assert (attained.threshold, attained.given, attained.precision) == (None, 0, 0.0)
            else:
                assert attained.threshold == least
                assert attained.precision == pytest.approx((truth & taken).sum() / taken.sum())
                assert attained.precision > float(wanted) - 0.1
    assert ChoicesReport.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_a_band_that_did_not_reach_the_precision_gives_nothing_and_is_told_of(
    choices: Choices, caplog: pytest.LogCaptureFixture
) -> None:
    least = choices.for_precision(0.75, USES)
    assert caplog.messages == ["A precision of 0.75 was not reached on dev by tail labels: none of them are given."]
    assert (least[BAND == "tail"] == NEVER).all()
    assert (least[BAND == "head"] == choices.precision["head"][PRECISIONS.index(0.75)]).all()
    choices.for_precision(0.95, USES)
    assert "by torso and tail labels" in caplog.messages[-1]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        choices.for_precision(0.5, USES)
    assert not caplog.messages


def test_what_no_band_reached_is_refused_with_the_most_there_is(choices: Choices) -> None:
    with pytest.raises(
        PredictionError, match=r"0\.99 was not reached on dev by labels of any band: ask for at most 0\.95"
    ):
        choices.for_precision(0.99, USES)
    none = Choices(10, 100, choices.macro, {band: (NEVER,) * len(PRECISIONS) for band in BANDS})
    with pytest.raises(PredictionError, match=r"any band: give a threshold instead"):
        none.for_precision(0.5, USES)


def test_what_is_written_reads_back_equal(choices: Choices) -> None:
    content = json.loads(json.dumps(choices.to_json(), allow_nan=False))
    assert content["precision"]["tail"]["0.95"] is None
    assert Choices.from_json(content) == choices


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("macro"),
        lambda c: c.update(head=5),
        lambda c: c.update(torso=True),
        lambda c: c.update(macro="0.5"),
        lambda c: c.update(macro=1.5),
        lambda c: c["precision"]["head"].update({"0.5": None}),
        lambda c: c["precision"]["torso"].pop("0.8"),
        lambda c: c["precision"].update(tail=[1]),
    ],
)
def test_other_content_is_refused(choices: Choices, damage: Any) -> None:
    content = json.loads(json.dumps(choices.to_json()))
    damage(content)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Choices.from_json(content)
