"""A page of the best and worst documents, for a person to read: what was expected, what was suggested, how sure."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cascadexml.data.corpus import Split
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.metrics import document_metrics
from cascadexml.pages import render
from cascadexml.ranking import NO_LABEL, Ranking

_SHOWN = 10
_CHARACTERS = 2000


def examples_page(
    ranking: Ranking,
    split: Split,
    vocabulary: Vocabulary,
    k: int,
    count: int,
) -> str:
    """One self-contained HTML page of the `count` worst and the `count` best documents; everything is escaped.

    Worst come the confidently wrong: of equal values, those of the highest first probability. Best come those with the
    most labels. Documents without labels are left out.

    Args:
        ranking: (N, K) with probabilities for scores.
        split: the N documents.
        vocabulary: what the labels are called.
        k: documents are ordered by nDCG@k.
        count: how many of each.
    """
    metric = f"nDCG@{k}"
    values = document_metrics(ranking, split.Y, [k])[metric]
    positives = np.diff(split.Y.indptr)
    labelled = np.flatnonzero(positives)
    surest = np.max(ranking.scores, axis=1, initial=-np.inf)
    worst = labelled[np.lexsort((-surest[labelled], values[labelled]))][:count]
    best = labelled[np.lexsort((-surest[labelled], -positives[labelled], -values[labelled]))][:count]

    def documents(rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        return [_document(ranking, split, n, vocabulary) | {"value": values[n]} for n in rows.tolist()]

    return render(
        "cascadexml.evaluation",
        "error_analysis.html",
        metric=metric,
        labelled=len(labelled),
        worst=documents(worst),
        best=documents(best),
    )


def _document(ranking: Ranking, split: Split, n: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """What the page shows of one document; of a label its row's outcome, (id, name) and a note."""
    text = split.texts[n]
    kept = ranking.labels[n] != NO_LABEL
    labels, probabilities = ranking.labels[n][kept].tolist(), ranking.scores[n][kept].tolist()
    true = split.Y.indices[split.Y.indptr[n] : split.Y.indptr[n + 1]].tolist()
    places = {label: place for place, label in enumerate(labels, start=1)}

    def place_of(label: int) -> str:
        if label in places:
            return f"place {places[label]}"
        return "not in train" if label >= vocabulary.L else f"not in the top {len(labels)}"

    return {
        "id": split.ids[n],
        "text": text if len(text) <= _CHARACTERS else text[:_CHARACTERS].rstrip() + " …",
        "expected": [(label in places, vocabulary.label(label), place_of(label)) for label in true],
        "suggested": [
            (label in true, vocabulary.label(label), f"{probability:.1%}")
            for label, probability in zip(labels[:_SHOWN], probabilities[:_SHOWN], strict=True)
        ],
    }
