"""Accepted batches: where their records go, and what is refused by the file's name."""

import itertools
import json
import lzma
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadexml.bundle import sha256_of
from cascadexml.config import AcceptedSettings, DownloadSettings
from cascadexml.data.accepted import Batch, add_batches, read_batches
from cascadexml.data.readers import RECORD_SCHEMA
from cascadexml.errors import DataError
from stages import ACCEPTED, RAW, download
from tests.support.params import SETTINGS

HALVES = AcceptedSettings(dev=0.3, test=0.3)


def table_of(ids: Sequence[str | None], **metadata: Any) -> pa.Table:
    """Synthetic RawRecords: only ids and metadata matter here."""
    n = len(ids)
    columns = [ids, ["text"] * n, [["a"]] * n, ["b"] * n, list(range(1, n + 1)), [None] * n]
    table = pa.table(columns, schema=RECORD_SCHEMA)
    for name, values in metadata.items():
        table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    return table


def batch_of(name: str, ids: Sequence[str | None], **metadata: Any) -> Batch:
    return Batch(name, Path(f"{name}.parquet"), "0" * 64, table_of(ids, **metadata))


def source_of(ids: Sequence[str], **metadata: Any) -> dict[str, pa.Table]:
    return {"train": table_of(ids, **metadata), "dev": table_of([]), "test": table_of([])}


def places(splits: dict[str, pa.Table]) -> dict[str, tuple[str, str | None]]:
    """Id → (split, batch)."""
    return {record["id"]: (name, record["batch"]) for name, table in splits.items() for record in table.to_pylist()}


IDS = st.lists(st.text("abcde", min_size=1, max_size=3), max_size=12)


@settings(deadline=None, max_examples=60)
@given(source=IDS, later=st.lists(IDS, min_size=1, max_size=4))
def test_every_id_stands_once_and_the_first_wins(source: list[str], later: list[list[str]]) -> None:
    source = list(dict.fromkeys(source))
    splits = source_of(source)
    batches = [batch_of(f"b{n}", ids) for n, ids in enumerate(later)]
    joined, told = add_batches(splits, batches, HALVES, splits["train"]["id"])
    owner = dict.fromkeys(source)
    for batch, ids in zip(batches, later, strict=True):
        for record_id in ids:
            owner.setdefault(record_id, batch.name)
    found = [i for table in joined.values() for i in table["id"].to_pylist()]
    assert sorted(found) == sorted(owner)
    assert {record_id: batch for record_id, (_, batch) in places(joined).items()} == owner
    for entry, ids in zip(told, later, strict=True):
        own = sum(batch == entry["name"] for batch in owner.values())
        assert sum(entry["records"].values()) == own
        assert entry["duplicates"] == len(ids) - own


@settings(deadline=None, max_examples=40)
@given(first=IDS, second=IDS)
def test_a_record_keeps_its_split_whatever_comes_with_it(first: list[str], second: list[str]) -> None:
    alone, _ = add_batches(source_of([]), [batch_of("a", first)], HALVES, table_of([])["id"])
    both, _ = add_batches(
        source_of(["zz"]), [batch_of("0", second), batch_of("a", first)], HALVES, table_of(["zz"])["id"]
    )
    before, after = places(alone), places(both)
    assert all(after[record_id][0] == split for record_id, (split, _) in before.items())


def test_the_shares_hold_and_a_changed_share_of_dev_leaves_test_alone() -> None:
    ids = [f"record {n}" for n in range(4000)]
    nothing = table_of([])["id"]
    joined, told = add_batches(source_of([]), [batch_of("a", ids)], AcceptedSettings(), nothing)
    # 4,000 draws at 0.2 have a standard deviation of 25.
    assert told[0]["records"] == {name: table.num_rows for name, table in joined.items()}
    assert abs(joined["dev"].num_rows - 400) < 100 and abs(joined["test"].num_rows - 800) < 130
    other, _ = add_batches(source_of([]), [batch_of("a", ids)], AcceptedSettings(dev=0.4), nothing)
    assert other["test"].equals(joined["test"])


def test_a_record_without_id_goes_to_train_for_validation_to_refuse() -> None:
    joined, _ = add_batches(source_of([]), [batch_of("a", [None, None])], HALVES, table_of([])["id"])
    assert joined["train"].num_rows == 2


def test_without_batches_nothing_changes(tmp_path: Path) -> None:
    splits = source_of(["a"])
    assert add_batches(splits, [], HALVES, splits["train"]["id"]) == (splits, [])
    assert read_batches(tmp_path / "nowhere") == []


def test_metadata_columns_are_brought_together() -> None:
    splits = source_of(["s"], year=[2001], kind=["Book"], empty=pa.nulls(1))
    batch = batch_of("a", ["x", "y"], year=pa.array([2019.0, None]), empty=["now", "full"], other=[1.5, 2.5])
    joined, _ = add_batches(splits, [batch], AcceptedSettings(dev=0, test=0), splits["train"]["id"])
    rows = {row["id"]: row for row in joined["train"].to_pylist()}
    assert joined["train"].schema.field("year").type == pa.int64()
    assert [
        (rows[i]["year"], rows[i]["kind"], rows[i]["empty"], rows[i]["other"], rows[i]["batch"]) for i in "sxy"
    ] == [
        (2001, "Book", None, None, None),
        (2019, None, "now", 1.5, "a"),
        (None, None, "full", 2.5, "a"),
    ]


def test_a_column_of_the_name_batch_is_kept_under_another() -> None:
    joined, _ = add_batches(source_of(["s"], batch=["old"]), [batch_of("a", ["x"], batch=["own"])],
                            AcceptedSettings(dev=0, test=0), pa.chunked_array([["s"]]))  # fmt: skip
    assert joined["train"].select(["batch", "batch_in_source"]).to_pylist() == [
        {"batch": None, "batch_in_source": "old"},
        {"batch": "a", "batch_in_source": "own"},
    ]


@pytest.mark.parametrize(
    ("year", "held"), [(["2019"], "string"), ([2019.5], "double"), ([[2019]], "list"), ([True], "bool")]
)
def test_metadata_of_another_type_is_refused_by_file_and_column(year: list[Any], held: str) -> None:
    splits = source_of(["s"], year=[2001])
    with pytest.raises(DataError, match=rf"^a\.parquet: metadata column 'year' holds {held}.*, expected int64"):
        add_batches(splits, [batch_of("a", ["x"], year=year)], HALVES, splits["train"]["id"])


def test_the_least_that_a_file_needs(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "text": ["one", "two"], "labels": [["x"], []]}
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    (tmp_path / "README.md").write_text("what lies here")
    (tmp_path / ".hidden").write_text("")
    (batch,) = read_batches(tmp_path)
    assert (batch.name, batch.sha256) == ("mine", sha256_of(tmp_path / "mine.parquet"))
    assert batch.records.schema == RECORD_SCHEMA
    assert batch.records.select(["source_file", "source_line", "error"]).to_pylist() == [
        {"source_file": "mine.parquet", "source_line": 1, "error": None},
        {"source_file": "mine.parquet", "source_line": 2, "error": None},
    ]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ["a"], "text": ["t"]}, "has no column 'labels', it has id, text: expected id, text and labels"),
        ({"id": [1], "text": ["t"], "labels": [["x"]]}, "column 'id' holds int64, expected string"),
        ({"id": ["a"], "text": ["t"], "labels": ["x;y"]}, r"column 'labels' holds string, expected list<.*string>"),
        ({"id": ["a"], "text": ["t"], "labels": [[1]]}, r"column 'labels' holds list<.*int64>, expected list<"),
    ],
)
def test_another_schema_is_refused_by_file_and_column(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    with pytest.raises(DataError, match=rf"mine\.parquet:? {said}"):
        read_batches(tmp_path)


def test_damaged_and_other_files_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(table_of(["a"]), tmp_path / "mine.parquet")
    content = (tmp_path / "mine.parquet").read_bytes()
    (tmp_path / "mine.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"mine\.parquet cannot be read as Parquet"):
        read_batches(tmp_path)
    (tmp_path / "mine.parquet").write_bytes(content)
    (tmp_path / "more.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"more\.jsonl is no accepted batch"):
        read_batches(tmp_path)


def incoming(sample_dir: Path, year: str, n: int) -> pa.Table:
    with lzma.open(sample_dir / "incoming" / f"{year}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return pa.Table.from_pylist([json.loads(line) for line in itertools.islice(lines, n)])


def test_the_stage_adds_batches_after_the_limit_and_tells_so(
    sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    ACCEPTED.mkdir(parents=True)
    chosen = replace(SETTINGS, download=DownloadSettings(source=str(sample_dir), limit=100))
    download.main(chosen)
    alone = {name: pq.read_table(RAW / f"{name}.parquet") for name in ("train", "dev", "test")}
    assert json.loads((RAW / "source.json").read_text())["batches"] == []
    assert all("batch" not in table.column_names for table in alone.values())

    # A record that the limit cut off is still one of the source's: another run may hold it out.
    with lzma.open(sample_dir / "test.jsonl.xz", "rt", encoding="utf-8") as lines:
        kept = set(alone["test"]["id"].to_pylist())
        cut_off = next(record for record in map(json.loads, lines) if record["id"] not in kept)
    first = pa.concat_tables([incoming(sample_dir, "2018-2019", 200), pa.Table.from_pylist([cut_off])],
                             promote_options="permissive")  # fmt: skip
    pq.write_table(first, ACCEPTED / "2018-2019.parquet")
    download.main(chosen)
    once = {name: pq.read_table(RAW / f"{name}.parquet") for name in alone}
    pq.write_table(incoming(sample_dir, "2020-2021", 100), ACCEPTED / "2020-2021.parquet")
    download.main(chosen)
    twice = {name: pq.read_table(RAW / f"{name}.parquet") for name in alone}

    source = json.loads((RAW / "source.json").read_text())
    assert [(b["name"], sum(b["records"].values()), b["duplicates"]) for b in source["batches"]] == [
        ("2018-2019", 200, 1),
        ("2020-2021", 100, 0),
    ]
    assert source["batches"][0]["sha256"] == sha256_of(ACCEPTED / "2018-2019.parquet")
    assert sum(source["records"].values()) == 100 + 20 + 20 + 300
    for name, table in alone.items():
        ids = [table["id"].to_pylist(), once[name]["id"].to_pylist(), twice[name]["id"].to_pylist()]
        # Each run goes on where the one before ended: no record has moved.
        assert ids[1][: len(ids[0])] == ids[0] and ids[2][: len(ids[1])] == ids[1]
        assert len(ids[2]) > len(ids[1]) > len(ids[0])
        assert twice[name]["batch"].to_pylist()[: len(ids[0])] == [None] * len(ids[0])
        assert set(twice[name]["batch"].to_pylist()) == {None, "2018-2019", "2020-2021"}
