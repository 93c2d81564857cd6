"""One ranker's rankings of dev and test: calibrated on dev, measured on either."""

from collections.abc import Mapping

from cascadexml.config import EvaluateSettings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.calibration import Calibration, fit_calibration
from cascadexml.metrics import Report, evaluate
from cascadexml.ranking import Ranking


class Evaluated:
    """Rankings with the calibration fitted on dev; without dev, scores are taken as they are.

    Args:
        rankings: by split, with the ranker's own scores.
        corpus: holds train and these splits.
        settings: what is measured.
        seed: of the bootstrap.
    """

    def __init__(self, rankings: Mapping[str, Ranking], corpus: Corpus, settings: EvaluateSettings, seed: int) -> None:
        self.rankings, self.corpus, self.settings, self.seed = rankings, corpus, settings, seed
        self.calibration = (
            fit_calibration(rankings["dev"], corpus.splits["dev"].Y) if "dev" in rankings else Calibration()
        )

    def calibrated(self, split: str) -> Ranking:
        """The ranking of a split, with probabilities for scores."""
        return self.calibration.calibrated(self.rankings[split])

    def report(self, split: str) -> Report:
        """All figures on a split, those at the threshold chosen on dev included."""
        splits, threshold = self.corpus.splits, self.calibration.threshold
        ranking, Y = self.calibrated(split), splits[split].Y
        return evaluate(ranking, Y, splits["train"].Y, self.settings, threshold=threshold, seed=self.seed)
