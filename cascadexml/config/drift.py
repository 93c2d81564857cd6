"""Section `drift` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """When a batch of new records counts as drifted, and when it is not fit to learn from.

    A check fails when its effect is above its threshold and its p-value below `alpha`; `min_failed` failed checks make
    a drift. The knobs from `min_records` on decide on quarantine.
    """

    batch: str = knob(meaning="what the stage compares: file, folder, archive, `http(s)://`, `s3://`")
    metadata: list[str] = knob([], meaning="columns that are compared; those that either side lacks are passed over")
    reference_records: int | None = knob(
        5000, low=50, meaning="at most so many records of dev and test in the reference; null: all"
    )
    alpha: float = knob(0.001, low=0.0, high=0.5, meaning="greatest p-value of a failed check")
    min_failed: int = knob(3, low=1, meaning="failed checks that make a drift")
    max_text_shift: float = knob(
        0.15, low=0.0, meaning="Wasserstein distance of a text's figures, in standard deviations"
    )
    max_score_shift: float = knob(0.15, low=0.0, meaning="the same of predicted probabilities")
    max_auc: float = knob(
        0.6,
        low=0.5,
        high=1.0,
        meaning="area under the ROC curve of a classifier that tells the batch's vectors from the reference's",
    )
    max_metadata_distance: float = knob(0.1, low=0.0, high=1.0, meaning="Jensen-Shannon distance of a metadata column")
    max_label_excess: float = knob(
        0.04,
        low=0.0,
        high=1.0,
        meaning="Jensen-Shannon divergence from train's label frequencies, above that of draws of train",
    )
    max_unseen_excess: float = knob(
        0.01, low=0.0, high=1.0, meaning="share of label uses that train lacks, above the reference's"
    )
    max_quality_fall: float = knob(0.04, low=0.0, high=1.0, meaning="of nDCG@5 and P@1, below the reference's")
    draws: int = knob(1000, low=10, meaning="for p-values and intervals; 1 / (`draws` + 1) must be below `alpha`")
    min_records: int = knob(50, low=1, meaning="fewer accepted records are quarantined")
    max_refused_share: float = knob(0.1, low=0.0, high=1.0, meaning="share of records that the row rules refuse")
    max_duplicate_share: float = knob(0.1, low=0.0, high=1.0, meaning="share of texts that stand earlier in the batch")
    max_damaged_share: float = knob(0.2, low=0.0, high=1.0, meaning="share of texts with encoding damage")
    max_length_ratio: float = knob(
        3.0, low=1.0, meaning="of the median text lengths of batch and reference, either way"
    )
    max_unseen_share: float = knob(0.5, low=0.0, high=1.0, meaning="share of label uses that train lacks")
    min_quality_share: float = knob(
        0.25, low=0.0, high=1.0, meaning="nDCG@5 over the reference's; below, labels and texts do not belong together"
    )
    report_rows: int = knob(500, low=0, meaning="records of either side in Evidently's report; 0: none")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if not self.batch:
            yield "drift.batch is empty, expected a file, a folder or an address."
        if 1 / (self.draws + 1) >= self.alpha:
            yield f"drift.draws is {self.draws}: no p-value of so many draws is below drift.alpha, {self.alpha:g}."
