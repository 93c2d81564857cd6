import json
import lzma
import subprocess
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadexml.bundle import sha256_of
from cascadexml.config import ColumnSettings, DownloadSettings, SplitSettings
from cascadexml.data.readers import RECORD_SCHEMA
from cascadexml.errors import DataError
from stages import RAW, download
from tests.support.params import SETTINGS


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)


def run_stage(**settings) -> dict:
    download.main(replace(SETTINGS, download=DownloadSettings(**settings)))
    return {name: pq.read_table(RAW / f"{name}.parquet") for name in ("train", "dev", "test")}


@pytest.fixture(scope="module")
def sample_lines(sample_dir):
    with lzma.open(sample_dir / "train.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [next(lines) for _ in range(300)]


def test_the_sample_whole(sample_dir):
    splits = run_stage(source=str(sample_dir))
    assert {name: table.num_rows for name, table in splits.items()} == {"train": 15000, "dev": 1500, "test": 3000}
    source = json.loads((RAW / "source.json").read_text())
    assert source["files"]["train.jsonl.xz"] == sha256_of(sample_dir / "train.jsonl.xz")
    assert source["records"]["test"] == 3000
    labels = pq.read_table(RAW / "labels.parquet")
    assert labels.schema == pa.schema([("id", pa.string()), ("name", pa.string())])
    assert labels.num_rows == source["label_names"] == len(set(labels["id"].to_pylist()))
    assert sorted(f.name for f in RAW.iterdir()) == [
        "dev.parquet", "labels.parquet", "source.json", "test.parquet", "train.parquet",
    ]  # fmt: skip


def test_one_file_is_split_and_cut_down(tmp_path, sample_lines):
    file = tmp_path / "records.jsonl"
    file.write_text("".join(sample_lines))
    splits = run_stage(source=str(file), limit=100, split=SplitSettings(dev=0.2, test=0.2))
    assert splits["train"].num_rows == 100
    assert splits["dev"].num_rows == splits["test"].num_rows == 20
    ids = [i for table in splits.values() for i in table["id"].to_pylist()]
    assert len(ids) == len(set(ids))
    first = {f.name: f.read_bytes() for f in RAW.iterdir()}
    run_stage(source=str(file), limit=100, split=SplitSettings(dev=0.2, test=0.2))
    assert {f.name: f.read_bytes() for f in RAW.iterdir()} == first


def test_an_archive_with_bad_rows_keeps_them(tmp_path, sample_lines):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(sample_lines[:50]) + "not JSON\n")
    archive = tmp_path / "mine.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", tmp_path, "mine"], check=True)
    splits = run_stage(source=str(archive), sha256=sha256_of(archive))
    rows = [row for row in splits["train"].to_pylist() if row["error"]]
    assert [(row["source_file"], row["source_line"]) for row in rows] == [("train.jsonl", 51)]
    assert json.loads((RAW / "source.json").read_text())["unreadable"] == {"train": 1, "dev": 0, "test": 0}
    assert all(table.select(RECORD_SCHEMA.names).schema == RECORD_SCHEMA for table in splits.values())


def test_a_failure_leaves_the_older_data_alone(tmp_path, sample_lines):
    file = tmp_path / "records.jsonl"
    file.write_text("".join(sample_lines))
    run_stage(source=str(file))
    before = {f.name: f.read_bytes() for f in RAW.iterdir()}
    with pytest.raises(DataError, match=r"set download\.columns"):
        run_stage(source=str(file), columns=ColumnSettings(text="body"))
    assert {f.name: f.read_bytes() for f in RAW.iterdir()} == before
    assert [f.name for f in RAW.parent.iterdir()] == ["raw"]
