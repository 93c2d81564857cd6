"""DVC stages: each reads its own section of params.yaml, calls the library, writes its outs."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from cascadexml.config import Settings, load_settings
from cascadexml.errors import CascadeXMLError, ConfigError

DATA = Path("data")
ACCEPTED = DATA / "accepted"
BASE = DATA / "base" / "artifact"
RAW = DATA / "raw"
CORPUS = DATA / "interim" / "corpus"
REJECTS = DATA / "interim" / "rejects.parquet"
TOKENS = DATA / "interim" / "tokens"
TREE = DATA / "interim" / "tree"
HELD_OUT = DATA / "interim" / "held_out"
MODEL = DATA / "models" / "model"
LINEAR = DATA / "models" / "linear"
BLEND = DATA / "models" / "blend"
REFERENCE = DATA / "models" / "reference"
CALIBRATION = DATA / "models" / "calibration.json"
ARTIFACT = DATA / "models" / "artifact"
REPORTS = DATA / "reports"
DRIFT = REPORTS / "drift"
CHECKPOINTS = DATA / "checkpoints"


def run(main: Callable[[Settings], None]) -> None:
    """Run one stage: check all of params.yaml first; turn a user's error into one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        settings = load_settings(Path("params.yaml"))
        if unwatched := settings.encoder.unwatched(Path()):
            raise ConfigError(f"params.yaml: {unwatched}")
        main(settings)
    except CascadeXMLError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
