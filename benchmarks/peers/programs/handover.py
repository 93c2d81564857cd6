"""What the programs in this folder share: they run where this project is not installed, beside the package they try.

Started as `python PROGRAM.py DATA OUT SETTINGS`: DATA is a folder of matrices (.npz without pickles) and texts (JSON),
SETTINGS a JSON object. In OUT a program leaves the scores of each held-out split, and times.json.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse


class Work:
    """What one program is to do."""

    def __init__(self) -> None:
        data, out, settings = sys.argv[1:]
        self.data, self.out = Path(data), Path(out)
        self.settings: dict[str, Any] = json.loads(settings)
        self._times: dict[str, dict[str, float]] = {}

    @property
    def K(self) -> int:  # noqa: N802
        """Labels a document."""
        return int(self.settings["K"])

    def features(self, split: str) -> sparse.csr_matrix:
        """(N, V) float32."""
        return sparse.load_npz(self.data / f"{split}.features.npz").astype(np.float32)

    def labels(self) -> sparse.csr_matrix:
        """(N, L) float32 of ones, those of train."""
        return sparse.load_npz(self.data / "labels.npz").astype(np.float32)

    def texts(self, split: str) -> list[str]:
        """N texts."""
        found: list[str] = json.loads((self.data / f"{split}.texts.json").read_text(encoding="utf-8"))
        return found

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note what a block takes, by the wall and of all threads."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._times[what] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}

    def rank(self, score: Callable[[str], sparse.csr_matrix]) -> None:
        """Write what `score` gives for each held-out split, (N, L) CSR, and the times."""
        for split in self.settings["held_out"]:
            with self.timed(split):
                scores = score(split)
            sparse.save_npz(self.out / f"{split}.npz", sparse.csr_matrix(scores))
        self.write_times()

    def write_times(self) -> None:
        """Write what the blocks took; the last that a program does."""
        (self.out / "times.json").write_text(json.dumps(self._times), encoding="utf-8")
