"""reference: held-out records of the training's years, seen through the model → data/models/reference."""

import logging

from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.evaluation.calibration import Calibration
from cascadexml.monitoring.reference import HELD_OUT, make_reference
from cascadexml.progress import console_progress
from cascadexml.rankers.base import ranker_bundle
from cascadexml.rankers.loading import load_ranker
from stages import BLEND, CALIBRATION, CORPUS, REFERENCE, TOKENS, run

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Write the reference that later batches are compared with."""
    corpus, trained = Corpus.load(CORPUS), ranker_bundle(BLEND)
    splits = [name for name in HELD_OUT if len(corpus.splits.get(name, ()))]
    reference = make_reference(
        corpus,
        load_ranker(trained, settings.train.device),
        Calibration.load(CALIBRATION),
        tokens={name: TokenStore.open(TOKENS / name) for name in splits},
        metadata=settings.drift.metadata,
        records=settings.drift.reference_records,
        seed=settings.seed,
        model_fingerprint=trained.fingerprint,
        progress=console_progress(),
    )
    reference.save(REFERENCE)
    log.info("reference: %d held-out records, %d words of train", len(reference.profile), len(reference.words))


if __name__ == "__main__":
    run(main)
