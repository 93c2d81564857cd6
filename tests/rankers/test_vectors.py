"""The index of vectors against a slow search, one query at a time."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cascadexml.errors import FormatError
from cascadexml.rankers import vectors as module
from cascadexml.rankers.vectors import FORMAT, SHARPNESS, VectorIndex
from cascadexml.ranking import NO_LABEL

N, D, L = 200, 16, 12
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(N, D)).astype(np.float32)
VECTORS[7] = 0
Y = sparse.csr_matrix(RANDOM.random((N, L)) < 0.2, dtype=np.float32)
QUERIES = RANDOM.normal(size=(9, D)).astype(np.float32)


def cosine(query: np.ndarray, unit: np.ndarray) -> float:
    return float(query @ unit) / float(np.linalg.norm(query))


@pytest.mark.parametrize("neighbours", [1, 10, 1000])
def test_votes_are_those_of_a_slow_search(neighbours: int) -> None:
    index = VectorIndex.of(VECTORS, Y, neighbours)
    ranking = index.rank(QUERIES, L)
    for query, labels, scores in zip(QUERIES, ranking.labels, ranking.scores, strict=True):
        cosines = [cosine(query, row) for row in index.X.astype(np.float32)]
        nearest = sorted(range(N), key=lambda n: -cosines[n])[:neighbours]
        weight = {n: max(cosines[n], 0.0) ** SHARPNESS for n in nearest}
        votes = sum(w * Y[n].toarray().ravel() for n, w in weight.items()) / sum(weight.values())
        given = labels != NO_LABEL
        np.testing.assert_allclose(scores[given], votes[labels[given]], atol=1e-4)
        np.testing.assert_allclose(np.sort(scores[given]), np.sort(votes[votes > 0]), atol=1e-4)


def test_the_nearest_come_first_and_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    index = VectorIndex.of(VECTORS, Y, 5)
    whole = index.nearest(QUERIES, 20)
    assert (whole.scores[:, :-1] >= whole.scores[:, 1:]).all()
    assert index.nearest(VECTORS[3:4], 1).labels.tolist() == [[3]]
    monkeypatch.setattr(module, "_CELLS_A_CHUNK", 2 * N)
    parts = index.nearest(QUERIES, 20)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)


def test_a_vector_of_nothing_has_no_neighbours() -> None:
    index = VectorIndex.of(VECTORS, Y, 5)
    assert (index.rank(np.zeros((2, D), dtype=np.float32), 3).labels == NO_LABEL).all()
    assert (index.nearest(QUERIES, N + 3).labels[:, -3:] == NO_LABEL).all()
    assert index.rank(QUERIES[:0], 3).shape == (0, 3)


def test_what_is_saved_ranks_equally_and_holds_no_texts(tmp_path: Path) -> None:
    index = VectorIndex.of(VECTORS, Y, 5)
    index.save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index")
    np.testing.assert_array_equal(loaded.rank(QUERIES, 5).labels, index.rank(QUERIES, 5).labels)
    assert {file.name for file in (tmp_path / "index").iterdir()} == {"manifest.json", "index.safetensors"}


@pytest.mark.parametrize("meta", [{"documents": N - 1}, {"L": 2}, {"neighbours": 0}])
def test_parts_that_do_not_fit_are_refused(meta: dict[str, int], tmp_path: Path) -> None:
    index = VectorIndex.of(VECTORS, Y, 5)
    index.save(tmp_path / "index")
    right = {"documents": N, "L": L, "neighbours": 5}
    with FORMAT.write(tmp_path / "wrong", right | meta) as folder:
        (folder / "index.safetensors").write_bytes((tmp_path / "index" / "index.safetensors").read_bytes())
    with pytest.raises(FormatError, match="cannot be read as an index of vectors"):
        VectorIndex.load(tmp_path / "wrong")
