"""Section `download` of params.yaml."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class ColumnSettings:
    """What the id, text and label columns are called in the source; `text` may join several with '+'."""

    id: str = knob("id", meaning="what the source calls the id")
    text: str = knob("text", meaning="the text; several columns or keys are joined with `+`, such as `title+abstract`")
    labels: str = knob("labels", meaning="the list of label ids")


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How dev and test are made from train when the source has none.

    `hash`: by a hash of the id; `time`: the newest records by `column`; `column`: `column` holds train, dev or test.
    """

    method: Literal["hash", "time", "column"] = knob(
        "hash",
        meaning="how dev and test are made out of train: by a hash of the id, the newest by `column`, or as `column` "
        "says",
    )
    column: str | None = knob(None, meaning="needed by `time` and `column`")
    dev: float = knob(0.1, low=0.0, high=0.5, meaning="share of train; dev and test together less than 1")
    test: float = knob(0.1, low=0.0, high=0.5, meaning="share of train")


@dataclass(frozen=True, kw_only=True)
class AcceptedSettings:
    """Shares of the records of accepted batches that are held out, by a hash of the id."""

    dev: float = knob(
        0.1,
        low=0.0,
        high=0.5,
        meaning="share of the records of accepted batches that go to dev; dev and test together less than 1",
    )
    test: float = knob(0.2, low=0.0, high=0.5, meaning="share of them that go to test")


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Where the records come from and how to read them."""

    source: str = knob(meaning="file, folder, archive, `.xz`/`.gz`, `http(s)://`, `s3://`: your own data")
    sha256: str | None = knob(None, meaning="digest that the file must have; null: not checked")
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "xmc", "pecos"] = knob(
        "auto", meaning="`auto` goes by the file names"
    )
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    label_separator: str = knob(";", meaning="where a CSV or TSV cell holds several labels")
    split: SplitSettings = field(default_factory=SplitSettings)
    limit: int | None = knob(
        None, low=1, meaning="at most so many records of train, and a fifth of that of dev and of test; null: all"
    )
    accepted: AcceptedSettings = field(default_factory=AcceptedSettings)

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if not self.source:
            yield "download.source is empty, expected a file, a folder or an address."
        if self.sha256 is not None and re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            yield f"download.sha256 is {self.sha256!r}, expected 64 hex digits in lower case."
        if not self.label_separator:
            yield "download.label_separator is empty, expected at least one character."
        for name, shares in (("split", self.split), ("accepted", self.accepted)):
            if shares.dev + shares.test >= 1:
                yield (
                    f"download.{name}.dev + download.{name}.test is {shares.dev + shares.test:g}, expected less than "
                    "1: something must be left to train on."
                )
        if self.split.method != "hash" and self.split.column is None:
            yield (
                "download.split.column is null, expected a column's name: download.split.method "
                f"{self.split.method!r} reads it."
            )
