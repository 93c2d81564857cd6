"""The model card: what a trained model is, for the people who decide whether to use it (Mitchell et al., 2019).

Every figure in it comes from the run; nothing is typed by hand. Its head is the YAML that model hubs read.
"""

import json
from collections.abc import Mapping
from typing import Any

from cascadexml.artifact.formats import Exported
from cascadexml.evaluation.choices import BANDS
from cascadexml.evaluation.report import FAMILIES_SHOWN, Attained, EvaluationReport, caption
from cascadexml.metrics.report import BinReport, Report

CARD = """\
---
{{ card_data }}
---

# {{ meta.name }}

CascadeXML model for extreme multi-label text classification: it ranks {{ "{:,}".format(meta.labels) }} labels
for a text and gives each a calibrated probability.

| | |
|---|---|
{% for key, value in facts.items() if value -%}
| {{ key }} | {{ value }} |
{% endfor %}
## Intended use

{{ stated.intended_use or "Not stated." }}

## Limits

{{ stated.limits or "Not stated." }}

{% if meta.max_length -%}
- A text is cut to {{ meta.max_length }} tokens.
{% endif -%}
- Labels that had no training document are never suggested. On test they count against recall.
- Probabilities are calibrated on documents like those of dev; on others they may be too high or too low.

## Data

{{ stated.data or "Not stated." }}

Data licence: {{ stated.data_licence or "not stated" }}. The encoder comes with its own licence. The code of the library
is under Apache-2.0.

## Evaluation

On the test split, measured once, in percent, with bootstrap 95 % intervals over documents. P: precision, R: recall,
nDCG: normalised discounted cumulative gain, PSP: propensity-scored precision, which weighs rare labels more.

{% if exported -%}
These figures, the calibration and the thresholds are those of the model that this one was exported from.
{%- if exported.precision == "int8" %} In int8 they may differ by a few tenths of a percent: `cascadexml evaluate`
measures it.{% endif %}

{% endif -%}
{% if names -%}
|  | {{ reports | join(" | ") }} |
|---|{{ "---|" * reports | length }}
{% for name in names -%}
| {{ name }}{% for report in reports.values() %} | {{ figure(report, name) }}{% endfor %} |
{% endfor -%}
{% else -%}
Not measured.
{% endif %}
The threshold {{ "%.4f" % meta.threshold }} was chosen on dev for the best micro-F1. `metrics.json` holds all figures.

{% if choices -%}
Where a precision is wanted (`min_precision=0.8`), labels are given from a probability on that reached it on dev, by
their use in train. On test this attains, in percent, precision and (in brackets) the share of the true labels given:

| wanted | {{ bands | join(" | ") }} |
|---|{{ "---|" * bands | length }}
{% for wanted, found in choices.precision.items() -%}
| {{ wanted }}{% for band in bands %} | {{ attained(found[band]) }}{% endfor %} |
{% endfor %}
At the threshold for macro-F1 (`threshold="macro"`) that is {{ "%.2f" % (100 * choices.macro_F1) }}.

{% endif -%}
{% if recalls -%}
Recall by label frequency, where a reader sees what the averages hide:

| labels by use in train | labels | uses in test | {{ recalls | join(" | ") }} |
|---|---|---|{{ "---|" * recalls | length }}
{% for bin, report in bins.items() -%}
| {{ bin }} | {{ "{:,}".format(report.labels) }} | {{ "{:,}".format(report.pairs) }}
{%- for name in recalls %} | {{ figure(report, name) }}{% endfor %} |
{% endfor %}
{% endif -%}
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
{{ params }}
```
"""


def render(meta: Mapping[str, Any], metrics: EvaluationReport, exported: Exported | None = None) -> str:
    """The model card in Markdown, under a head in YAML.

    Args:
        meta: what `artifact.pack` keeps in the manifest.
        metrics: the evaluation; parts that were not measured are left out.
        exported: what the model was exported from, where it was.
    """
    from huggingface_hub import ModelCard, ModelCardData

    ours, encoder = metrics.model, meta["encoder"]
    measured_in_bins = dict.fromkeys(each for bin_ in ours.bins.values() for each in bin_.figures)
    name = meta["params"].get("encoder", {}).get("name", "unnamed")
    facts = {
        "Ranker": meta["ranker"],
        "Encoder": encoder
        and f"{name}: {encoder['model_type']}, {encoder['num_hidden_layers']} layers of {encoder['hidden_size']}",
        "Networks": meta["networks"] > 1 and f"{meta['networks']}, an ensemble",
        "Parameters": meta["parameters"] and f"{meta['parameters']:,}",
        "Documents": ", ".join(f"{split} {N:,}" for split, N in meta["documents"].items()) or "unknown",
        "Exported": exported,
        "Data fingerprint": f"`{meta['data_fingerprint']}`",
        "Git revision": f"`{meta['git_revision']}`",
        "Made with": ", ".join(f"{library} {version}" for library, version in meta["libraries"].items()),
    }
    head = ModelCardData(
        library_name="cascadexml", pipeline_tag="text-classification", tags=["extreme-multi-label-classification"]
    )
    card = ModelCard.from_template(
        head,
        template_str=CARD,
        meta=meta,
        exported=exported,
        facts=facts,
        stated=meta["params"].get("package", {}),
        reports={"this model": ours, **{caption(other): report for other, report in metrics.baselines.items()}},
        names=[each for each in ours.figures if each.partition("@")[0] in FAMILIES_SHOWN or "@" not in each],
        bins=ours.bins,
        recalls=[each for each in measured_in_bins if each.startswith("R@")],
        figure=_figure,
        choices=metrics.choices,
        bands=BANDS,
        attained=_attained,
        params=json.dumps(meta["params"], indent=1, ensure_ascii=False),
    )
    return f"{card}\n"


def _attained(found: Attained) -> str:
    if found.threshold is None:
        return "not reached"
    return f"{100 * found.precision:.1f} ({100 * found.recall:.1f})" if found.given else "none given"


def _figure(report: Report | BinReport, name: str) -> str:
    if name not in report.figures:
        return "-"
    interval = report.intervals.get(name)
    span = f" ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})" if interval else ""
    return f"{100 * report.figures[name]:.2f}{span}"
