"""The mixture: rankings of several sources → one, by a logistic regression over what each source says of a label.

What any source names is a candidate. The evidence of a source for a candidate is the logit of its score, the root of
its share of votes, or a share as it is; a source that does not name it counts with its last place's, since it may be
no surer. The log-odds that a candidate is right are

    z = Σ_s w_s(f) · evidence_s + c(f),    w_s(f) = (1 - f) · rare_s + f · common_s,    c(f) likewise,

where f in [0, 1] is the logarithm of the label's uses in train over that of the most used label's. No weight is below
0, so a source that becomes surer of a label never lowers it. The parameters are few because dev is small: two a source,
and two. A stacker with many overfits there (GermEval 2025: .350 on dev, .312 on test).

They are fitted twice: on all candidates, then on those that the first weights put on a document's first `DECISIVE`
places. Nearly all candidates are far from being given, and weights that tell these from the rest tell the last few
apart less well, and are too sure of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse, special

from cascadexml.ranking import Int64, Ranking, keys_of, scores_at

BROUGHT = 40
"""Labels of each source but the first that become candidates; of the first all do."""
LEAST, MOST = 1e-4, 1 - 1e-6
"""The probabilities between which a source is believed to tell degrees of certainty apart."""
DECISIVE = 7
"""First places of each document that the weights are fitted for, and their probabilities with them."""
RIDGE = 1e-5
"""Weight of the squared parameters, on columns of variance 1: between sources that say the same."""

Float64 = npt.NDArray[np.float64]
Evidence = Callable[[Float64], Float64]


def logit(probabilities: Float64) -> Float64:
    """The evidence of a source that gives probabilities; any shape."""
    return np.asarray(special.logit(np.clip(probabilities, LEAST, MOST)))


def plain(shares: Float64) -> Float64:
    """The evidence of a source that gives shares, each as good as it is large; any shape."""
    return np.maximum(shares, 0)


def root(shares: Float64) -> Float64:
    """The evidence of a source that gives shares of votes, 0 among them; any shape."""
    return np.sqrt(np.maximum(shares, 0))


@dataclass(frozen=True, eq=False)
class Candidates:
    """What sources name, and what each says of it.

    Attributes:
        documents, labels: (M,) rows, by document and then by label.
        evidence: (M, S) of the sources.
        N: documents.
    """

    documents: Int64
    labels: Int64
    evidence: Float64
    N: int

    @classmethod
    def of(cls, rankings: Sequence[Ranking], evidence: Sequence[Evidence], L: int) -> Self:
        """Gather the candidates of N documents.

        Args:
            rankings: of S sources, (N, any K) with scores in [0, 1] of labels below L; all labels of the first become
                candidates, and the first `BROUGHT` of the others.
            evidence: of each source, what its scores say: `logit`, `root` or `plain`.
            L: labels.
        """
        brought = [ranking.labels[:, : None if s == 0 else BROUGHT] for s, ranking in enumerate(rankings)]
        keys = np.unique(np.concatenate([keys_of(labels, L) for labels in brought]))
        said = [of(scores_at(ranking, keys, L)) for ranking, of in zip(rankings, evidence, strict=True)]
        return cls(keys // L, keys % L, np.column_stack(said), len(rankings[0].labels))

    def first(self, probabilities: Float64, k: int) -> npt.NDArray[np.bool_]:
        """(M,) which are among the k of their document with the greatest (M,) probabilities."""
        order = np.lexsort((self.labels, -probabilities, self.documents))
        starts = np.searchsorted(self.documents, self.documents)
        chosen = np.zeros(order.size, dtype=bool)
        chosen[order[np.arange(order.size) - starts < k]] = True
        return chosen

    def ranked(self, probabilities: Float64, K: int, L: int) -> Ranking:
        """The best K of each document by (M,) probabilities."""
        ends = np.searchsorted(self.documents, np.arange(self.N + 1))
        return Ranking.from_scores(sparse.csr_matrix((probabilities, self.labels, ends), shape=(self.N, L)), K)


@dataclass(frozen=True)
class Mixture:
    """Weights of S sources at the two ends of the label frequencies.

    Attributes:
        rare, common: (S,) weights, none below 0, of a label that train never used and of the most used one.
        rare_bias, common_bias: c at these ends.
    """

    rare: tuple[float, ...]
    common: tuple[float, ...]
    rare_bias: float = 0.0
    common_bias: float = 0.0

    def probabilities(self, found: Candidates, uses: Int64) -> Float64:
        """(M,) probabilities in (0, 1) that the candidates are right.

        Args:
            found: M candidates.
            uses: (L,) documents of train that have each label.
        """
        weights = np.array([*self.rare, *self.common, self.rare_bias, self.common_bias])
        return np.asarray(special.expit(_design(found, uses) @ weights))

    def shares(self, found: Candidates, uses: Int64) -> Float64:
        """(M, S + 1): what each source, and last the label's frequency, adds to the log-odds."""
        S = len(self.rare)
        terms = _design(found, uses) * np.array([*self.rare, *self.common, self.rare_bias, self.common_bias])
        return np.column_stack([terms[:, :S] + terms[:, S : 2 * S], terms[:, 2 * S :].sum(axis=1)])


def fit_mixture(found: Candidates, right: npt.NDArray[np.bool_], uses: Int64) -> Mixture:
    """The weights of greatest likelihood for the first `DECISIVE` places that those for all candidates give.

    Where nothing but right or nothing but wrong labels stands there, those for all candidates.

    Args:
        found: candidates of documents that no source has learnt from.
        right: (M,) whether each is a label of its document.
        uses: (L,) documents of train that have each label.
    """
    of_all = _likeliest(found, right, uses)
    first = found.first(of_all.probabilities(found, uses), DECISIVE)
    if right[first].all() or not right[first].any():
        return of_all
    return _likeliest(_some(found, first), right[first], uses)


def _likeliest(found: Candidates, right: npt.NDArray[np.bool_], uses: Int64) -> Mixture:
    S = found.evidence.shape[1]
    X = _design(found, uses)
    scale = X.std(axis=0)
    scale[scale < np.finfo(np.float32).eps] = 1.0
    X = X / scale
    y = right.astype(np.float64)

    def loss(weights: Float64) -> tuple[float, Float64]:
        z = X @ weights
        value = (np.logaddexp(0, z).sum() - y @ z) / max(y.size, 1) + RIDGE * (weights @ weights)
        gradient = X.T @ (special.expit(z) - y) / max(y.size, 1) + 2 * RIDGE * weights
        return float(value), gradient

    free = 2 * S
    bounds = optimize.Bounds([0.0] * free + [-np.inf] * 2, [np.inf] * (free + 2))
    best = optimize.minimize(
        loss,
        np.zeros(free + 2),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 1000, "ftol": 1e-9, "gtol": 1e-6},
    )
    weights = (best.x / scale).tolist()
    return Mixture(tuple(weights[:S]), tuple(weights[S : 2 * S]), *weights[2 * S :])


def cross_fitted(found: Candidates, right: npt.NDArray[np.bool_], uses: Int64, folds: int, seed: int) -> Float64:
    """(M,) probabilities of each document's candidates by weights that were fitted on other documents.

    Args:
        found, right, uses: as of `fit_mixture`.
        folds: parts that the documents are dealt into.
        seed: of the deal.
    """
    fold = np.random.default_rng(seed).permutation(found.N) % folds
    probabilities = np.zeros(len(found.documents))
    for held_out in range(folds):
        mine = fold[found.documents] == held_out
        mixture = fit_mixture(_some(found, ~mine), right[~mine], uses)
        probabilities[mine] = mixture.probabilities(_some(found, mine), uses)
    return probabilities


def _some(found: Candidates, chosen: npt.NDArray[np.bool_]) -> Candidates:
    return Candidates(found.documents[chosen], found.labels[chosen], found.evidence[chosen], found.N)


def _design(found: Candidates, uses: Int64) -> Float64:
    """(M, 2 S + 2): evidence and 1, each times 1 - f and times f."""
    most = np.log1p(uses.max(initial=0))
    f = (np.log1p(uses[found.labels]) / (most or 1.0))[:, None]
    E, rare = found.evidence, 1 - f
    return np.hstack([rare * E, f * E, rare, f])
