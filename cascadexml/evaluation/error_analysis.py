"""A page of the best and worst documents, for a person to read: what was expected, what was suggested, how sure."""

from html import escape

import numpy as np

from cascadexml.data.corpus import Split
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.metrics import document_metrics
from cascadexml.ranking import NO_LABEL, Ranking

_SHOWN = 10
_CHARACTERS = 2000

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }}
article {{ border: 1px solid #8886; border-radius: .5rem; padding: .25rem 1.25rem 1rem; margin: 1.25rem 0; }}
h3 {{ font-size: 1rem; font-weight: normal; overflow-wrap: anywhere; }}
h4 {{ margin: .5rem 0; }}
.text {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 0 2rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ padding: .1rem .5rem .1rem 0; vertical-align: top; }}
td:nth-child(1) {{ width: 1.5rem; }}
td:nth-child(3) {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
.hit {{ font-weight: 600; }}
.hit td:first-child {{ color: #008a5e; }}
.miss td:first-child {{ color: #d55e00; }}
small {{ opacity: .7; font-weight: normal; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{introduction}</p>
{sections}
</body>
</html>
"""


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
    sections = []
    for heading, chosen in (("Worst", worst), ("Best", best)):
        articles = (_article(ranking, split, n, vocabulary, f"{metric} {values[n]:.3f}") for n in chosen.tolist())
        sections.append(f"<section>\n<h2>{heading}</h2>\n{''.join(articles)}</section>")
    introduction = (
        f"The {len(worst)} worst and {len(best)} best of {len(labelled)} labelled test documents by {metric}. "
        f"✓ marks a true label: on the left where the ranking has it, on the right that the suggestion is right."
    )
    return _PAGE.format(title="Worst and best test documents", introduction=introduction, sections="\n".join(sections))


def _article(ranking: Ranking, split: Split, n: int, vocabulary: Vocabulary, figure: str) -> str:
    text = split.texts[n]
    kept = ranking.labels[n] != NO_LABEL
    labels, probabilities = ranking.labels[n][kept].tolist(), ranking.scores[n][kept].tolist()
    true = split.Y.indices[split.Y.indptr[n] : split.Y.indptr[n + 1]].tolist()
    places = {label: place for place, label in enumerate(labels, start=1)}
    shortened = text if len(text) <= _CHARACTERS else text[:_CHARACTERS].rstrip() + " …"
    expected = (_expected(label, places.get(label), len(labels), vocabulary) for label in true)
    suggested = (
        _row(label in true, label, f"{probability:.1%}", vocabulary)
        for label, probability in zip(labels[:_SHOWN], probabilities[:_SHOWN], strict=True)
    )
    return (
        f"<article>\n<h3><strong>{escape(split.ids[n])}</strong> · {figure}</h3>\n"
        f'<p class="text">{escape(shortened)}</p>\n<div class="columns">\n'
        f"<div><h4>True labels</h4>\n<table>{''.join(expected)}</table></div>\n"
        f"<div><h4>Suggestions</h4>\n<table>{''.join(suggested)}</table></div>\n</div>\n</article>\n"
    )


def _expected(label: int, place: int | None, K: int, vocabulary: Vocabulary) -> str:
    if place is not None:
        where = f"place {place}"
    elif label >= vocabulary.L:
        where = "not in train"
    else:
        where = f"not in the top {K}"
    return _row(place is not None, label, where, vocabulary)


def _row(hit: bool, label: int, note: str, vocabulary: Vocabulary) -> str:
    label_id, name = vocabulary.label(label)
    shown = f"{escape(name)} <small>{escape(label_id)}</small>" if name else escape(label_id)
    return (
        f'<tr class="{"hit" if hit else "miss"}"><td>{"✓" if hit else "✗"}</td><td>{shown}</td><td>{note}</td></tr>\n'
    )
