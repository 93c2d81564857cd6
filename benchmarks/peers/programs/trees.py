"""Parabel and Bonsai by omikuji: its default settings but for those named; see handover.py."""

from itertools import pairwise

import numpy as np
import omikuji
from handover import Work
from scipy import sparse

work = Work()


def write_xmc(path: str, X: sparse.csr_matrix, Y: sparse.csr_matrix) -> None:
    """Write the text format of the Extreme Classification Repository."""
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(f"{X.shape[0]} {X.shape[1]} {Y.shape[1]}\n")
        for (start, end), (first, last) in zip(pairwise(X.indptr), pairwise(Y.indptr), strict=True):
            labels = ",".join(map(str, Y.indices[first:last]))
            pairs = zip(X.indices[start:end], X.data[start:end], strict=True)
            file.write(" ".join([labels, *(f"{column}:{value:.8g}" for column, value in pairs)]) + "\n")


def score(split: str) -> sparse.csr_matrix:
    """The best labels of each document, one at a time, as omikuji's Python interface has it."""
    found = []
    X = work.features(split)
    for start, end in pairwise(X.indptr):
        pairs = list(zip(X.indices[start:end].tolist(), X.data[start:end].tolist(), strict=True))
        found.append(model.predict(pairs, top_k=work.K))
    ends = np.cumsum([0, *map(len, found)])
    labels, scores = (np.array([pair[i] for row in found for pair in row]) for i in (0, 1))
    return sparse.csr_matrix((scores.astype(np.float32), labels.astype(np.int32), ends), shape=(len(found), L))


Y = work.labels()
L = Y.shape[1]
place = str(work.out / "train.txt")
X_train = work.features("train")
X_train.sort_indices()
write_xmc(place, X_train, Y)
hyper = omikuji.Model.default_hyper_param()
for name, value in work.settings["hyper_param"].items():
    setattr(hyper, name, value)
with work.timed("training"):
    model = omikuji.Model.train_on_data(place, hyper)
work.rank(score)
