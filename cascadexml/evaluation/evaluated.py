"""One ranker's rankings of dev and test: calibrated on dev, measured on either."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cascadexml.config import EvaluateSettings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.calibration import Calibration, fit_calibration
from cascadexml.evaluation.choices import choices_report, choose
from cascadexml.evaluation.report import ChoicesReport
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
        self.uses = np.bincount(corpus.splits["train"].Y.indices, minlength=len(corpus.vocabulary))
        self.calibration = self._fitted() if "dev" in rankings else Calibration()

    def _fitted(self) -> Calibration:
        ranking, Y, settings = self.rankings["dev"], self.corpus.splits["dev"].Y, self.settings
        fitted = fit_calibration(ranking, Y)
        chosen = choose(fitted.calibrated(ranking), Y, self.uses, settings.torso, settings.head)
        return replace(fitted, choices=chosen)

    def calibrated(self, split: str) -> Ranking:
        """The ranking of a split, with probabilities for scores."""
        return self.calibration.calibrated(self.rankings[split])

    def report(self, split: str) -> Report:
        """All figures on a split, those at the threshold chosen on dev included."""
        splits, threshold = self.corpus.splits, self.calibration.threshold
        ranking, Y = self.calibrated(split), splits[split].Y
        return evaluate(ranking, Y, splits["train"].Y, self.settings, threshold=threshold, seed=self.seed)

    def attained(self) -> ChoicesReport | None:
        """What the choices made on dev attain on test; None without dev."""
        choices = self.calibration.choices
        if choices is None:
            return None
        return choices_report(choices, self.calibrated("test"), self.corpus.splits["test"].Y, self.uses)
