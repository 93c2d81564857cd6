"""The model card: what a trained model is, for the people who decide whether to use it (Mitchell et al., 2019).

Every figure in it comes from the run; nothing is typed by hand.
"""

import json
from collections.abc import Iterable, Mapping
from string import Template
from typing import Any

from cascadexml.evaluation.report import FAMILIES_SHOWN, EvaluationReport, caption
from cascadexml.metrics.report import BinReport, Interval

CARD = Template("""\
# $name

CascadeXML model for extreme multi-label text classification: it ranks $labels labels for a text and gives each a
calibrated probability.

| | |
|---|---|
$facts

## Intended use

$intended_use

## Limits

$limits

$cut- Labels that had no training document are never suggested. On test they count against recall.
- Probabilities are calibrated on documents like those of dev; on others they may be too high or too low.

## Data

$data

Data licence: $data_licence. The encoder comes with its own licence. The code of the library is under Apache-2.0.

## Evaluation

On the test split, measured once, in percent, with bootstrap 95 % intervals over documents. P: precision, R: recall,
nDCG: normalised discounted cumulative gain, PSP: propensity-scored precision, which weighs rare labels more.

$evaluation

The threshold $threshold was chosen on dev for the best micro-F1. `metrics.json` holds all figures.
$bins
## Use

```python
from cascadexml import Predictor

predictor = Predictor.load("path/to/this/folder")
predictor.predict("A text to label", top_k=5)
predictor.predict(["several", "texts"], threshold=predictor.threshold)
```

```sh
echo "A text to label" | cascadexml predict path/to/this/folder
```

## Training parameters

```json
$params
```
""")


def render(meta: Mapping[str, Any], metrics: EvaluationReport) -> str:
    """The model card in Markdown.

    Args:
        meta: what `artifact.pack` keeps in the manifest.
        metrics: the evaluation; parts that were not measured are left out.
    """
    params = meta["params"]
    package = {key: value for key, value in params.get("package", {}).items() if value}
    encoder, libraries = meta["encoder"], meta["libraries"]
    facts = {
        "Ranker": meta["ranker"],
        "Encoder": encoder
        and f"{params.get('encoder', {}).get('name', 'unnamed')}: {encoder['model_type']}, "
        f"{encoder['num_hidden_layers']} layers of {encoder['hidden_size']}",
        "Parameters": meta["parameters"] and f"{meta['parameters']:,}",
        "Documents": ", ".join(f"{split} {N:,}" for split, N in meta["documents"].items()) or "unknown",
        "Data fingerprint": f"`{meta['data_fingerprint']}`",
        "Git revision": f"`{meta['git_revision']}`",
        "Made with": ", ".join(f"{name} {version}" for name, version in libraries.items()),
    }
    return CARD.substitute(
        name=meta["name"],
        labels=f"{meta['labels']:,}",
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items() if value),
        intended_use=package.get("intended_use", "Not stated."),
        limits=package.get("limits", "Not stated."),
        cut=f"- A text is cut to {meta['max_length']} tokens.\n" if meta["max_length"] else "",
        data=package.get("data", "Not stated."),
        data_licence=package.get("data_licence", "not stated"),
        evaluation=_evaluation(metrics),
        threshold=f"{meta['threshold']:.4f}",
        bins=_bins(metrics.model.bins),
        params=json.dumps(params, indent=1, ensure_ascii=False),
    )


def _evaluation(metrics: EvaluationReport) -> str:
    names = [name for name in metrics.model.figures if name.partition("@")[0] in FAMILIES_SHOWN or "@" not in name]
    if not names:
        return "Not measured."
    reports = (metrics.model, *metrics.baselines.values())
    rows = (
        [name, *(_figure(report.figures.get(name), report.intervals.get(name)) for report in reports)] for name in names
    )
    return _table(["", "this model", *map(caption, metrics.baselines)], rows)


def _bins(bins: Mapping[str, BinReport]) -> str:
    """Recall by how often labels occur in train: where a reader sees what the averages hide."""
    names = list(dict.fromkeys(name for report in bins.values() for name in report.figures if name.startswith("R@")))
    if not names:
        return ""
    rows = (
        [
            bin_,
            f"{report.labels:,}",
            f"{report.pairs:,}",
            *(_figure(report.figures.get(name), report.intervals.get(name)) for name in names),
        ]
        for bin_, report in bins.items()
    )
    table = _table(["labels by use in train", "labels", "uses in test", *names], rows)
    return f"\nRecall by label frequency:\n\n{table}\n"


def _figure(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    span = f" ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})" if interval else ""
    return f"{100 * value:.2f}{span}"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
