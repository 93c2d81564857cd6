"""What settings reach, over several seeds: each trial is a DVC experiment of its own, dev for choices, test on demand.

    python -m benchmarks.trials --seeds 0 1 2 --test                      # params.yaml as it is
    python -m benchmarks.trials --of train.epochs=0.25 --of train.epochs=1 --of "train.epochs=2 train.ensemble=3"

One JSON line a trial, then one a setting with mean and standard deviation over its seeds. A trial that has been done
comes out of DVC's cache: `dvc exp show` lists them all, and `dvc exp apply trial-…` writes one back. Minutes are
those of what DVC had to run, so null where it ran nothing.
"""

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHOWN = ("P@1", "P@5", "nDCG@20", "R@20", "PSP@1", "PSP@5")
DEV, TEST = "data/reports/blend.json", "data/reports/metrics.json"


@dataclass(frozen=True)
class Trial:
    """One run of the pipeline up to `target` with `settings`, such as ("train.epochs=2",), and a seed."""

    settings: tuple[str, ...]
    seed: int
    target: str

    @property
    def name(self) -> str:
        """The experiment's name: the same for the same trial on the same commit."""
        commit = output("git", "rev-parse", "HEAD").strip()
        content = json.dumps([commit, sorted(self.settings), self.seed, self.target])
        return f"trial-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def run(self, copied: Sequence[str]) -> dict[str, Any]:
        """Run it, or take it from DVC's cache: settings, minutes, figures of dev and, after `evaluate`, of test."""
        # DVC refuses a name that exists; an experiment that did not end has none.
        if self.name in output("dvc", "exp", "list", "--name-only").split():
            output("dvc", "exp", "remove", self.name)
        sets = [part for each in (*self.settings, f"seed={self.seed}") for part in ("-S", each)]
        copies = [part for each in copied for part in ("-C", each)]
        start = time.monotonic()
        said = output("dvc", "exp", "run", "--temp", "--name", self.name, *sets, *copies, self.target)
        minutes = round((time.monotonic() - start) / 60, 2)
        found: dict[str, Any] = {"settings": list(self.settings), "seed": self.seed, "trial": self.name}
        found["minutes"] = minutes if re.search("Running stage '", said) else None
        dev, on_dev = self.read(DEV)["dev"], [metric for metric in SHOWN if "PSP" not in metric]
        found["dev"] = {metric: dev["mixed"][metric] for metric in on_dev}
        found["dev, network alone"] = {metric: dev["cascade"][metric] for metric in on_dev}
        if self.target == "evaluate":
            test = self.read(TEST)
            found["test"] = {metric: test["test"][metric] for metric in SHOWN}
            found["test, network alone"] = {metric: test["baselines"]["cascade"][metric] for metric in SHOWN}
            found["test"] |= {"tail R@5": test["bins"]["tail"]["R@5"], "ECE@5": test["calibration"]["ECE@5"]}
        return found

    def read(self, file: str) -> dict[str, Any]:
        """A metrics file of the experiment."""
        ref = output("git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{self.name}").strip()
        read: dict[str, Any] = json.loads(output("git", "show", f"{ref}:{file}"))
        return read


def main() -> None:
    """Run the trials one after the other and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", action="append", default=[], metavar="KEY=VALUE ...", help="settings of a trial")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--test", action="store_true", help="look at test as well: for what has been chosen")
    parser.add_argument("--copy", nargs="+", default=[], help="what the pipeline reads and git does not know")
    arguments = parser.parse_args()
    target = "evaluate" if arguments.test else "blend"
    for settings in arguments.of or [""]:
        done = []
        for seed in arguments.seeds:
            done.append(Trial(tuple(settings.split()), seed, target).run(arguments.copy))
            print(json.dumps(done[-1]), flush=True)
        if len(done) > 1:
            print(json.dumps({"settings": settings.split(), "seeds": len(done), **summary(done)}), flush=True)


def summary(done: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation of each figure over the seeds."""
    return {
        split: {
            metric: [
                round(form(each[split][metric] for each in done), 5) for form in (statistics.mean, statistics.stdev)
            ]
            for metric in done[0][split]
        }
        for split in ("dev", "dev, network alone", "test", "test, network alone")
        if split in done[0]
    }


def output(*command: str) -> str:
    """What a command prints; its progress and its errors are seen as they come."""
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if run.returncode:
        sys.exit(f"error: {' '.join(command[:3])} gave {run.returncode}:\n{run.stdout[-2000:]}")
    return run.stdout


if __name__ == "__main__":
    main()
