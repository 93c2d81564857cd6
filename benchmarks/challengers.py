"""What a refit, a warm and a cold start reach with new records, and in how many minutes: a retraining's challengers.

    python -m benchmarks.challengers RUN BATCH ... [--starts refit warm cold] [--work FOLDER]

RUN is a checkout in which `make run` has run; its artifact is the champion. BATCH is a file of labelled records, as
monitoring would accept it. Each challenger is made in a workspace of its own, as the retraining flow makes it, by
`dvc repro package`; what the batches change is computed there, the rest comes from DVC's cache. Then it is judged as
the flow judges: on test and the held-out records of all batches. One JSON line a challenger: minutes, and in percent
the champion's and its figures with the interval of their difference; `slices` are parts of the records. Neither Prefect
nor S3 is needed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq

from cascadexml.config import load_settings
from cascadexml.evaluation.judgement import Comparison, Judgement
from cascadexml.monitoring.batch import read_batch
from flows.challengers import changes
from flows.records import Start
from flows.retraining import LEFT_OUT
from flows.tasks import ARTIFACT, dvc_stages
from flows.workspace import make_workspace


def main() -> None:
    """Print one line a challenger."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("batch", type=Path, nargs="+")
    parser.add_argument("--starts", nargs="+", choices=get_args(Start), default=["refit", "warm"])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="laid over the challengers' settings")
    parser.add_argument("--work", type=Path, help="where the workspaces stay; default: a folder that goes at the end")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (arguments.work or Path(scratch)).resolve()
        for start in arguments.starts:
            line = challenge(arguments.run.resolve(), arguments.batch, start, arguments.set, work / start)
            print(json.dumps(line), flush=True)


def challenge(
    run: Path, batches: Sequence[Path], start: Start, settings: Sequence[str], workspace: Path
) -> dict[str, Any]:
    """Make a challenger and judge it."""
    extra = load_settings(run / "params.yaml").retrain.settings
    make_workspace(run, workspace, [*changes(start, extra), *settings])
    records = prepare(run, batches, workspace)
    begin = time.perf_counter()
    stages = [stage for stage in dvc_stages(workspace) if stage not in LEFT_OUT]
    call(["-m", "dvc", "repro", "--quiet", *stages], workspace)
    minutes = (time.perf_counter() - begin) / 60
    call(["-m", "cascadexml", "judge", str(run / ARTIFACT), "--out", "judgement"], workspace)
    found = Judgement.from_json(json.loads((workspace / "judgement" / "judgement.json").read_text(encoding="utf-8")))
    return {
        "challenger": start,
        "accepted records": records,
        "held-out records": found.documents,
        "minutes": round(minutes, 1),
        "would be promoted": found.promote,
        "figures": {each.name: told(each) for each in (found.difference, *found.differences) if each},
        "slices": {each.name: told(each) for each in found.slices},
    }


def prepare(run: Path, batches: Sequence[Path], workspace: Path) -> int:
    """Put the champion and the batches where a retraining has them; gives how many records were accepted."""
    settings, base = load_settings(run / "params.yaml"), workspace / "data" / "base" / "artifact"
    if not base.exists():
        shutil.copytree(run / ARTIFACT, base)
    records = 0
    for file in batches:
        batch = read_batch(file, str(file), settings.download, settings.validate)
        pq.write_table(batch.accepted, workspace / "data" / "accepted" / f"{batch.id}.parquet", compression="zstd")
        records += batch.accepted.num_rows
    return records


def call(arguments: Sequence[str], folder: Path) -> None:
    """Run a Python program; what it prints goes to stderr."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, stdout=sys.stderr, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"error: {' '.join(arguments[:3])} gave {done.returncode} in {folder}: see above.")


def told(found: Comparison) -> dict[str, Any]:
    """A comparison in percent."""
    champion, challenger, low, high = (
        round(100 * each, 2) for each in (found.champion, found.challenger, found.low, found.high)
    )
    return {"champion": champion, "challenger": challenger, "difference": [low, high]}


if __name__ == "__main__":
    main()
