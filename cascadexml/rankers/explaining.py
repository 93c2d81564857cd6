"""Why a label has its score: what each source adds to it, the terms that speak for it, the records that carry it.

A ranker that can say so keeps `Explainer` beside the contract of rankers. What it says is no story told afterwards: the
shares are the summands of the score's log-odds, the terms those of the linear classifier's. Which words moved the
network is not said; only the sum that it adds is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import Documents, Ranker
from cascadexml.ranking import Ranking

if TYPE_CHECKING:
    from cascadexml.rankers.linear import LinearRanker


@dataclass(frozen=True, slots=True)
class Term:
    """A term of the text, and what it adds to the linear classifier's log-odds: its weight times its TF-IDF."""

    term: str
    adds: float


@dataclass(frozen=True, slots=True)
class Words:
    """The linear classifier's log-odds of a label, term by term.

    Attributes:
        speak_for, speak_against: the terms that add and take away most, the strongest first.
        others: what all further terms of the text add, in sum.
        bias: what it starts from, without any term.
    """

    speak_for: tuple[Term, ...]
    speak_against: tuple[Term, ...]
    others: float
    bias: float

    @property
    def log_odds(self) -> float:
        """Their sum, of which the linear classifier's score is the sigmoid."""
        return sum(term.adds for term in (*self.speak_for, *self.speak_against)) + self.others + self.bias


@dataclass(frozen=True, slots=True)
class NearRecord:
    """A training record that carries the label.

    Attributes:
        id: what the training data call it.
        source: the index that found it: `neighbours` by its words, `vectors` by the network's vector.
        cosine: of the text and the record there, above 0.
    """

    id: str
    source: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a label has its score.

    Attributes:
        shares: what each source adds to the log-odds, and under `frequency` what the label's uses in train add. A
            source of no weight adds 0; one that does not name the label adds what its last place is worth.
        words: the linear classifier's part; None where there is none, or where no term of the text is known to it for
            this label.
        records: of each index its nearest records that carry the label, the nearest first.
    """

    shares: Mapping[str, float]
    words: Words | None
    records: tuple[NearRecord, ...]

    @property
    def log_odds(self) -> float:
        """The sum of the shares, of which the ranker's score is the sigmoid."""
        return sum(self.shares.values())


class Explanations(Protocol):
    """What can be said of N documents that have been ranked; it is worked out when it is asked for."""

    def of(self, document: int, labels: Sequence[int], records: int, terms: int) -> list[Explanation]:
        """Why some labels of a document have their scores, in the order given.

        Args:
            document: its row, in [0, N).
            labels: rows of labels that its ranking names.
            records: at most so many of each index.
            terms: at most so many for a label, and so many against it.

        Raises:
            ValueError: the document's ranking does not name a label.
        """
        ...


@runtime_checkable
class Explainer(Ranker, Protocol):
    """A ranker whose scores are sums that can be told."""

    def rank_to_explain(
        self, documents: Documents, K: int, *, progress: Progress = silent
    ) -> tuple[Ranking, Explanations]:
        """What `rank` gives, and what explains it, in one pass over N documents."""
        ...


def explain_words(linear: "LinearRanker", text: str, labels: Sequence[int], terms: int) -> list[Words | None]:
    """What a text's terms say of some labels.

    Args:
        linear: whose weights.
        text: one document.
        labels: rows of labels.
        terms: at most so many for a label, and so many against it.
    """
    x = linear.tfidf.transform([text])
    weights = sparse.csc_matrix(linear.W[x.indices][:, labels])
    found: list[Words | None] = []
    for column, label in enumerate(labels):
        own = slice(weights.indptr[column], weights.indptr[column + 1])
        rows = weights.indices[own]
        adds = weights.data[own].astype(np.float64) * x.data[rows]
        if not rows.size:
            found.append(None)
            continue
        order = np.argsort(-adds, kind="stable")
        first = [at for at in order[:terms] if adds[at] > 0]
        last = [at for at in order[::-1][:terms] if adds[at] < 0]
        speak_for, speak_against = (
            tuple(Term(linear.tfidf.terms[x.indices[rows[at]]], float(adds[at])) for at in those)
            for those in (first, last)
        )
        others = float(np.delete(adds, first + last).sum())
        found.append(Words(speak_for, speak_against, others, float(linear.b[label])))
    return found


def nearest_records(
    cosines: Mapping[str, npt.NDArray[np.float32]], carriers: npt.NDArray[np.integer], ids: Sequence[str], count: int
) -> tuple[NearRecord, ...]:
    """The records nearest to a text among those that carry a label.

    Args:
        cosines: index → (N,) of the text and each training record.
        carriers: rows of the records that carry it.
        ids: of the N records.
        count: at most so many of each index.
    """
    found: list[NearRecord] = []
    for source, each in cosines.items():
        own = each[carriers]
        best = np.lexsort((carriers, -own))[:count]
        found += [NearRecord(ids[carriers[at]], source, float(own[at])) for at in best if own[at] > 0]
    return tuple(found)
