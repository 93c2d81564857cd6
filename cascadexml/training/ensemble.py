"""fit_ensemble(): several runs, one after the other, to one ranker; killed, it goes on in the run that it was in."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from cascadexml.progress import Progress, silent
from cascadexml.rankers.ensemble import join, member_name
from cascadexml.training.curves import Record
from cascadexml.training.distributed import joined
from cascadexml.training.fit import device_of, fit, state_of
from cascadexml.training.run import Run

log = logging.getLogger(__name__)


def fit_ensemble(
    runs: Sequence[Run],
    *,
    out: Path,
    checkpoints: Path,
    progress: Progress = silent,
    record: Record = lambda step, figures: None,
) -> None:
    """Fit one cascade a run, and write the ensemble of them to `out`; of a single run its cascade, as `fit` does.

    Killed at any moment, the next call with the same arguments ends with the same bytes: a member that is done waits
    below `checkpoints` until all are, and the others go on as of `fit`.

    Args:
        runs: the members' inputs, each with a seed of its own; in all else but trees and bases they are alike.
        out: folder of the trained ranker, a bundle that `load_ranker` reads.
        checkpoints: folder under which the runs keep their state.
        progress: told of every step of every member.
        record: as of `fit`; with several members their names stand before those of the figures: member_0/loss/total.

    Raises:
        TrainingError, ConfigError, EncoderError, FormatError: as of `fit`.
    """
    if len(runs) == 1:
        fit(runs[0], out=out, checkpoints=checkpoints, progress=progress, record=record)
        return
    folders = [state_of(run, checkpoints).with_suffix(".trained") for run in runs]
    device = device_of(runs[0])
    with joined(device) as group:
        for i, (run, folder) in enumerate(zip(runs, folders, strict=True)):
            told, curves = _prefixed(record, f"{member_name(i)}/"), folder / "curves.json"
            # As the lead sees it: it alone writes, and all must train or none.
            if group.lead_says((folder / "model").exists(), device):
                log.info("member %d of %d is trained already: %s", i + 1, len(runs), folder)
                if group.leads:
                    for step, figures in json.loads(curves.read_text(encoding="utf-8")):
                        told(step, figures)
                continue
            log.info("member %d of %d, seed %d", i + 1, len(runs), run.seed)
            fit(run, out=folder / "model", checkpoints=checkpoints, progress=progress, record=told, curves=curves)
        if group.leads:
            join([folder / "model" for folder in folders], out)
            for run, folder in zip(runs, folders, strict=True):
                shutil.rmtree(folder)
                # What a kill between a member's last write and its clearing up left.
                shutil.rmtree(state_of(run, checkpoints), ignore_errors=True)


def _prefixed(record: Record, prefix: str) -> Record:
    return lambda step, figures: record(step, {prefix + name: value for name, value in figures.items()})
