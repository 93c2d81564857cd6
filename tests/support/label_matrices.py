"""Label matrices drawn at random."""

import numpy as np
from scipy import sparse


def random_labels(rng: np.random.Generator, N: int, V: int, power: float = 1.0) -> sparse.csr_matrix:
    """(N, V): two different labels a document; label r is drawn with a weight of r to the power of minus `power`."""
    weights = 1 / np.arange(1, V + 1) ** power
    rows = [np.sort(rng.choice(V, 2, replace=False, p=weights / weights.sum())) for _ in range(N)]
    return sparse.csr_matrix((np.ones(2 * N, np.float32), np.concatenate(rows), np.arange(N + 1) * 2), shape=(N, V))
