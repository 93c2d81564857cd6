"""Popularity against plain counts of the bundled sample's labels."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cascadexml.errors import FormatError
from cascadexml.rankers.base import Documents
from cascadexml.rankers.popularity import FORMAT, Popularity
from cascadexml.ranking import NO_LABEL


def test_all_get_the_labels_of_most_uses(small_corpus):
    Y = small_corpus.splits["train"].Y
    ranking = Popularity.fit(Y).rank(Documents(["some text"] * 4), 10)
    uses = Counter(Y.indices.tolist())
    expected = sorted(uses, key=lambda label: (-uses[label], label))[:10]
    assert ranking.labels.tolist() == [expected] * 4
    np.testing.assert_allclose(ranking.scores[0], [uses[label] / Y.shape[0] for label in expected], rtol=1e-6)


def test_a_label_without_uses_is_never_given():
    Y = sparse.csr_matrix(np.array([[0.0, 1, 0], [0, 1, 0]]))
    assert Popularity.fit(Y).rank(Documents(["text"]), 3).labels.tolist() == [[1, NO_LABEL, NO_LABEL]]


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        (np.array([3, -1]), "-1 to 3, expected 0 to 10"),
        (np.array([3, 11]), "3 to 11, expected 0 to 10"),
        (np.array([3.0, 1.0]), "1-dimensional float64"),
        (np.array([[3, 1]]), "2-dimensional int64"),
    ],
)
def test_counts_that_cannot_be_are_refused_despite_a_right_manifest(tmp_path: Path, uses, said: str):
    with FORMAT.write(tmp_path / "odd", {"documents": 10}) as folder:
        np.save(folder / "uses.npy", uses)
    with pytest.raises(FormatError, match=said):
        Popularity.load(tmp_path / "odd")
