"""Evaluation on records, of any ranker."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from cascadexml.config import EvaluateSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.labelled import LabelledRecords
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.records import evaluate_on_records, matrix_with_uses
from cascadexml.metrics import evaluate, frequency_bins, inverse_propensities
from cascadexml.rankers.base import Documents
from cascadexml.rankers.neighbours import NearestNeighbours

SETTINGS = EvaluateSettings(ks=[1, 5, 20], bootstrap_samples=30, torso=2, head=5)
CALIBRATION = Calibration(0.7, 0.2, 0.4)


@pytest.fixture(scope="module")
def neighbours(small_corpus: Corpus) -> NearestNeighbours:
    train = small_corpus.splits["train"]
    return NearestNeighbours.fit(Documents(train.texts), train.Y[:, : small_corpus.vocabulary.L].tocsr(), 5)


def test_on_a_split_of_the_corpus_they_are_the_figures_of_the_metrics(
    neighbours: NearestNeighbours, small_corpus: Corpus
) -> None:
    """The counts of uses alone give what the train matrix itself gives."""
    test, train, vocabulary = small_corpus.splits["test"], small_corpus.splits["train"], small_corpus.vocabulary
    ranking = CALIBRATION.calibrated(neighbours.rank(Documents(test.texts), SETTINGS.top_k))
    expected = evaluate(ranking, test.Y, train.Y, SETTINGS, threshold=CALIBRATION.threshold)
    ids = [[vocabulary.ids[row] for row in test.Y[n].indices] for n in range(len(test))]
    records = LabelledRecords(test.texts, pa.array(ids, pa.list_(pa.string())), 3)
    uses = np.bincount(train.Y.indices, minlength=len(vocabulary))
    Y_train = matrix_with_uses(uses, len(train), len(vocabulary))
    found = evaluate_on_records(neighbours, CALIBRATION, vocabulary, Y_train, records, SETTINGS)
    assert found.report == expected
    assert found.report.figures["PSP@1"] > 0
    unknown = {label for labels in ids for label in labels} - set(vocabulary.ids[: vocabulary.L])
    assert (found.evaluated, found.left_out, found.known) == (len(test), 3, vocabulary.L)
    assert found.unknown == len(unknown) > 0
    assert found.to_json()["labels"] == {"known": vocabulary.L, "unknown": len(unknown), "threshold": 0.4}


def test_labels_that_nobody_knows_count_against_recall_alone(
    neighbours: NearestNeighbours, small_corpus: Corpus
) -> None:
    test, vocabulary = small_corpus.splits["test"], small_corpus.vocabulary
    ranking = neighbours.rank(Documents(test.texts), 1)
    first = [vocabulary.ids[label] for label in ranking.labels[:, 0]]
    Y_train = small_corpus.splits["train"].Y

    def figures(labels: list[list[str]]) -> dict[str, float]:
        records = LabelledRecords(test.texts, pa.array(labels, pa.list_(pa.string())), 0)
        found = evaluate_on_records(neighbours, CALIBRATION, vocabulary, Y_train, records, SETTINGS)
        return dict(found.report.figures)

    bare, extra = figures([[label] for label in first]), figures([[label, f"{label}:new"] for label in first])
    assert (bare["P@1"], bare["R@1"]) == (1.0, 1.0)
    assert (extra["P@1"], extra["R@1"]) == (1.0, 0.5)
    assert Y_train.shape[1] == len(vocabulary)


def test_a_matrix_with_uses_has_the_propensities_and_bins_of_the_one_that_was_counted() -> None:
    Y = sparse.csr_matrix((np.random.default_rng(0).random((40, 12)) < np.linspace(0, 0.9, 12)).astype(np.float32))
    made = matrix_with_uses(np.bincount(Y.indices, minlength=12), 40, 12)
    np.testing.assert_array_equal(inverse_propensities(made, 0.55, 1.5), inverse_propensities(Y, 0.55, 1.5))
    for name, mask in frequency_bins(Y, 5, 20).items():
        np.testing.assert_array_equal(frequency_bins(made, 5, 20)[name], mask)


@pytest.mark.parametrize("uses", [[1, 2], [1, -1, 2], [1, 2, 11], [0.5, 1.0, 2.0], [[1, 2, 3]]])
def test_counts_that_no_matrix_can_have_are_refused(uses: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        matrix_with_uses(np.array(uses), 10, 3)
