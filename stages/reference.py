"""reference: what the model says of held-out records of the training's years → data/models/reference."""

import logging

from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.held_out import load_held_out
from cascadexml.monitoring.reference import make_reference
from cascadexml.rankers.base import ranker_bundle
from stages import BLEND, CALIBRATION, CORPUS, HELD_OUT, REFERENCE, run

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Write the reference that later batches are compared with."""
    reference = make_reference(
        Corpus.load(CORPUS),
        load_held_out(HELD_OUT),
        Calibration.load(CALIBRATION),
        metadata=settings.drift.metadata,
        records=settings.drift.reference_records,
        seed=settings.seed,
        model_fingerprint=ranker_bundle(BLEND).fingerprint,
    )
    reference.save(REFERENCE)
    log.info("reference: %d held-out records, %d words of train", len(reference.profile), len(reference.words))


if __name__ == "__main__":
    run(main)
