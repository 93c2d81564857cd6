"""The validate stage with the real Great Expectations: as a process of its own, and the suites in this one."""

import json
import lzma
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadexml import quality
from cascadexml.config import ValidateSettings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError
from tests.support.params import params_yaml

pytestmark = pytest.mark.integration

SPLITS = ("train", "dev", "test")

# Runs the stage, and ends it with code 99 at the first attempt to look up a host or to connect anywhere.
STAGE = """
import os, runpy, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        print("network:", event, arguments, file=sys.stderr, flush=True)
        os._exit(99)
sys.addaudithook(watch)
runpy.run_module("stages.validate", run_name="__main__")
"""


@pytest.fixture(scope="module")
def sample(sample_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """All real records of the bundled sample, as raw records."""
    found = {}
    for split in SPLITS:
        with lzma.open(sample_dir / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
            place = {"source_file": f"{split}.jsonl.xz", "error": None}
            found[split] = [json.loads(line) | place | {"source_line": n} for n, line in enumerate(lines, start=1)]
    return found


@pytest.fixture(scope="module")
def names(sample_dir: Path) -> dict[str, str]:
    with lzma.open(sample_dir / "label_texts.json.xz", "rt", encoding="utf-8") as file:
        return dict(json.load(file))


@pytest.fixture
def run_stage(tmp_path: Path, repo_root: Path, names: dict[str, str]) -> Callable[..., Any]:
    """Write raw records and params.yaml to an empty project, run the stage there, give the process."""

    def run(splits: Mapping[str, list[dict[str, Any]]]) -> subprocess.CompletedProcess[str]:
        raw = tmp_path / "data" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        (tmp_path / "params.yaml").write_text(params_yaml())
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows), raw / f"{split}.parquet")
        pq.write_table(pa.table({"id": list(names), "name": list(names.values())}), raw / "labels.parquet")
        environment = {"PYTHONPATH": str(repo_root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")}
        (tmp_path / "home").mkdir(exist_ok=True)
        command = [sys.executable, "-c", STAGE]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def summary_of(project: Path) -> Any:
    return json.loads((project / "data" / "reports" / "validation" / "summary.json").read_text(encoding="utf-8"))


def test_the_sample_passes(
    run_stage: Callable[..., Any], sample: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    done = run_stage(sample)
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["expectations"]["critical"] == 0
    assert {split: summary["splits"][split]["kept"] for split in SPLITS} == {s: len(sample[s]) for s in SPLITS}
    corpus = Corpus.load(tmp_path / "data" / "interim" / "corpus")
    for split in SPLITS:
        assert corpus.splits[split].ids == [row["id"] for row in sample[split]]
        assert corpus.splits[split].texts == [row["text"] for row in sample[split]]
        assert corpus.splits[split].Y.nnz == sum(len(set(row["labels"])) for row in sample[split])
    assert pq.read_table(tmp_path / "data" / "interim" / "rejects.parquet").num_rows == 0
    # Neither the project nor the home folder is left with anything of Great Expectations.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "home", "params.yaml"]
    assert not [path for path in (tmp_path / "home").iterdir() if "expectations" in path.name]


def test_a_critical_failure_stops_and_leaves_the_evidence(
    run_stage: Callable[..., Any], sample: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    # Synthetic damage to real records: 10 of 300 test texts copied from train, 30 of 300 train texts emptied.
    splits = {split: [dict(row) for row in sample[split][:300]] for split in SPLITS}
    for place in range(10):
        splits["test"][place]["text"] = splits["train"][100 + place]["text"]
    for place in range(30):
        splits["train"][place]["text"] = ""
    stale = tmp_path / "data" / "interim" / "corpus"
    stale.mkdir(parents=True)
    done = run_stage(splits)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not stale.exists()

    table = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in done.stderr.splitlines() if "|" in line
    }
    assert "0.0333333" in table["test", "leak_share"]
    assert "at most 0.01" in table["test", "leak_share"]
    assert "at most 0.05" in table["train", "refused_share"]

    summary = summary_of(tmp_path)
    critical = {(f["split"], f["column"]): f["rows"] for f in summary["failed"] if f["severity"] == "critical"}
    assert critical == {("test", "leak_share"): 10, ("train", "refused_share"): 30}
    assert summary["splits"]["train"]["refused_for"] == {"text_missing": 30}
    rejects = pq.read_table(tmp_path / "data" / "interim" / "rejects.parquet")
    assert rejects.column("id").to_pylist() == [row["id"] for row in splits["train"][:30]]
    assert (tmp_path / "data" / "reports" / "validation" / "data_docs" / "index.html").is_file()


def validate(splits: Mapping[str, list[dict[str, Any]]], folder: Path, **bounds: Any) -> dict[str, pa.Table]:
    tables = {split: pa.Table.from_pylist(rows) for split, rows in splits.items()}
    return quality.validate(
        tables, {}, ValidateSettings(**bounds), rejects=folder / "rejects.parquet", reports=folder / "reports"
    )


def failed(folder: Path) -> dict[tuple[str, str], str]:
    document = json.loads((folder / "reports" / "summary.json").read_text(encoding="utf-8"))
    return {(failure["split"], failure["column"]): failure["severity"] for failure in document["failed"]}


def test_warnings_are_reported_and_do_not_stop(sample: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    # Synthetic: one bad record of each kind among real ones.
    splits = {split: [dict(row) for row in sample[split][:200]] for split in SPLITS}
    splits["test"][0]["text"] = splits["train"][0]["text"]
    splits["train"][1]["text"] = splits["train"][0]["text"]
    splits["dev"][2]["labels"] = splits["dev"][2]["labels"] * 2
    splits["dev"][3]["id"] = None
    for row in splits["test"]:
        row["year"] = str(row["year"])
    for row in splits["dev"][:20]:
        row["text"] += " \ufffd"
    kept = validate(splits, tmp_path, max_unseen_label_share=0.01)
    assert [kept[split].num_rows for split in SPLITS] == [200, 199, 200]
    found = failed(tmp_path)
    assert set(found.values()) == {"warning"}
    assert {
        ("test", "text_stands_in_train"),
        ("train", "text_stands_earlier"),
        ("dev", "repaired"),
        ("dev", "refused"),
        ("dev", "damaged_share"),
        ("dev", "unseen_label_share"),
        ("test", "unseen_label_share"),
        ("test", "metadata.year"),
    } == set(found)
    failures = json.loads((tmp_path / "reports" / "summary.json").read_text(encoding="utf-8"))["failed"]
    examples = {(failure["split"], failure["column"]): failure["examples"] for failure in failures}
    assert examples["test", "text_stands_in_train"] == [splits["test"][0]["id"]]
    assert examples["train", "text_stands_earlier"] == [splits["train"][1]["id"]]


def test_a_share_at_its_bound_passes_and_one_above_stops(
    sample: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    splits = {split: [dict(row) for row in sample[split][:100]] for split in SPLITS}
    for place in range(7):
        splits["test"][place]["text"] = splits["train"][place]["text"]
    validate(splits, tmp_path, max_leak_share=0.07, max_unseen_label_share=1.0)
    with pytest.raises(DataError, match=r"leak_share of test: found 0\.07, expected at most 0\.06"):
        validate(splits, tmp_path, max_leak_share=0.06, max_unseen_label_share=1.0)


def test_a_split_without_a_record_stops(sample: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    splits = {split: [dict(row) for row in sample[split][:50]] for split in SPLITS}
    for row in splits["dev"]:
        row["labels"] = []
    with pytest.raises(DataError, match="critical"):
        validate(splits, tmp_path)
    assert failed(tmp_path)["dev", "records"] == "critical"
    assert pq.read_table(tmp_path / "rejects.parquet").num_rows == 50


def test_the_suite_checks_what_the_row_rules_let_through(
    sample: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    # Synthetic: the facts of a row rule that failed to do its work.
    tables = {split: pa.Table.from_pylist(sample[split][:50]) for split in SPLITS}
    sound = quality.measure(tables, {}, ValidateSettings())
    facts = sound.facts["test"].to_pydict()
    facts["id"][1] = facts["id"][0]
    facts["n_chars"][2] = 0
    facts["n_distinct_labels"][3] += 1
    broken = replace(sound, facts=sound.facts | {"test": pa.table(facts, sound.facts["test"].schema)})
    checked = quality.run_suites(broken, ValidateSettings(), tmp_path / "docs")
    critical = {(f.split, f.column, f.rows) for f in checked.failures if f.severity == "critical"}
    assert critical == {("test", "id", 2), ("test", "n_chars", 1), ("test", "n_labels, n_distinct_labels", 1)}


def test_an_expectation_that_cannot_be_evaluated_is_critical(
    sample: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    tables = {split: pa.Table.from_pylist(sample[split][:50]) for split in SPLITS}
    sound = quality.measure(tables, {}, ValidateSettings())
    blind = replace(sound, facts=sound.facts | {"dev": sound.facts["dev"].drop_columns(["n_labels"])})
    checked = quality.run_suites(blind, ValidateSettings(), tmp_path / "docs")
    critical = [failure for failure in checked.failures if failure.severity == "critical"]
    assert {failure.split for failure in critical} == {"dev"}
    assert all("not evaluated" in failure.observed and "n_labels" in failure.observed for failure in critical)


def test_data_docs_open_without_a_network(sample: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    validate({split: sample[split][:50] for split in SPLITS}, tmp_path, max_unseen_label_share=1.0)
    docs = tmp_path / "reports" / "data_docs"
    pages = {path: path.read_text(encoding="utf-8") for path in docs.rglob("*") if path.is_file()}
    assert {path.relative_to(docs).as_posix() for path in pages} == {"index.html"} | {
        f"{kind}/{suite}.html" for kind in ("validations", "expectations") for suite in (*SPLITS, "splits")
    }
    for path, page in pages.items():
        assert "<script" not in page
        assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
        assert not re.search(r"url\(|@import", page)
        for link in re.findall(r'href="([^"#]+)"', page):
            assert (path.parent / link).resolve() in pages, f"{path} links to {link}"
    assert "values must be unique" in pages[docs / "validations" / "train.html"]
