import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadexml.config import DownloadSettings, SplitSettings
from cascadexml.data.readers import RECORD_SCHEMA, read
from cascadexml.data.splitting import fill_splits, limit_splits
from cascadexml.errors import DataError

# Synthetic ids; texts and labels do not matter here.
id_lists = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=60)


def table_of(ids, **metadata) -> pa.Table:
    n = len(ids)
    columns = [ids, ["t"] * n, [["a"]] * n, ["train.jsonl"] * n, list(range(1, n + 1)), [None] * n]
    table = pa.table(columns, schema=RECORD_SCHEMA)
    for name, values in metadata.items():
        table = table.append_column(name, pa.array(values))
    return table


def placed(splits) -> dict:
    return {row["source_line"]: name for name, table in splits.items() for row in table.to_pylist()}


@settings(deadline=None, max_examples=80)
@given(ids=id_lists, dev=st.floats(0, 0.45), test=st.floats(0, 0.45))
def test_by_hash_every_record_lands_once_and_equal_ids_together(ids, dev, test):
    table = table_of([*ids, None])
    splits = fill_splits({"train": table}, SplitSettings(dev=dev, test=test))
    assert list(splits) == ["train", "dev", "test"]
    # In one split alone: what is held out is not in train too.
    assert sum(table.num_rows for table in splits.values()) == len(ids) + 1
    place = placed(splits)
    assert sorted(place) == list(range(1, len(ids) + 2))
    by_id: dict = {}
    for line, record_id in enumerate([*ids, None], start=1):
        assert by_id.setdefault(record_id, place[line]) == place[line]
    assert by_id[None] == "train"


def test_by_hash_a_record_stays_when_others_come_and_the_order_changes(sample_dir):
    train = read(sample_dir, DownloadSettings(source=str(sample_dir))).splits["train"]
    first = fill_splits({"train": train.slice(0, 5000)}, SplitSettings())
    reversed_rows = train.take(pa.array(range(train.num_rows - 1, -1, -1)))
    second = fill_splits({"train": reversed_rows}, SplitSettings())
    where = {i: name for name, table in second.items() for i in table["id"].to_pylist()}
    assert all(where[i] == name for name, table in first.items() for i in table["id"].to_pylist())
    # 15,000 draws at 0.1 have a standard deviation of 37.
    assert abs(second["dev"].num_rows - 1500) < 200
    assert abs(second["test"].num_rows - 1500) < 200


def test_splits_that_exist_are_left_as_they_are():
    train, dev, test = (table_of([f"{name}{n}" for n in range(200)]) for name in ("a", "b", "c"))
    given_all = fill_splits({"train": train, "dev": dev, "test": test}, SplitSettings())
    assert [given_all[name].equals(table) for name, table in (("train", train), ("dev", dev), ("test", test))] == [
        True
    ] * 3
    only_dev = fill_splits({"train": train, "test": test}, SplitSettings())
    assert only_dev["test"].equals(test)
    assert only_dev["train"].num_rows + only_dev["dev"].num_rows == 200
    assert 0 < only_dev["dev"].num_rows < 60


@pytest.mark.parametrize(
    "moment",
    [
        lambda n: n,
        lambda n: n / 7,
        lambda n: f"2020-{n // 28 + 1:02}-{n % 28 + 1:02}",
        lambda n: datetime.date(2020, 1, 1) + datetime.timedelta(days=n),
    ],
)
def test_by_time_the_newest_are_test_then_dev(moment):
    order = [(7 * n) % 100 for n in range(100)]
    times = [moment(n) for n in order]
    table = table_of([str(n) for n in order], when=times)
    splits = fill_splits({"train": table}, SplitSettings(method="time", column="when", dev=0.1, test=0.2))
    oldest_of = {name: min(t["when"].to_pylist()) for name, t in splits.items()}
    newest_of = {name: max(t["when"].to_pylist()) for name, t in splits.items()}
    assert {name: t.num_rows for name, t in splits.items()} == {"train": 70, "dev": 10, "test": 20}
    assert newest_of["train"] < oldest_of["dev"] <= newest_of["dev"] < oldest_of["test"]


def test_by_time_ties_do_not_depend_on_the_order_and_unknowns_stay_in_train():
    ids = [str(n) for n in range(50)] + [None, "no time"]
    years = [2000] * 50 + [2100, None]
    how = SplitSettings(method="time", column="year", dev=0.2, test=0.2)
    one = fill_splits({"train": table_of(ids, year=years)}, how)
    other = fill_splits({"train": table_of(ids[::-1], year=years[::-1])}, how)
    assert {n: set(t["id"].to_pylist()) for n, t in one.items()} == {
        n: set(t["id"].to_pylist()) for n, t in other.items()
    }
    assert {None, "no time"} <= set(one["train"]["id"].to_pylist())
    assert one["test"].num_rows == 10


def test_by_column():
    table = table_of(["1", "2", "3", None], part=["train", "dev", "test", "anything"])
    splits = fill_splits({"train": table}, SplitSettings(method="column", column="part"))
    assert {name: t["id"].to_pylist() for name, t in splits.items()} == {
        "train": ["1", None],
        "dev": ["2"],
        "test": ["3"],
    }


@pytest.mark.parametrize(
    ("how", "metadata", "message"),
    [
        (SplitSettings(method="time", column="yaer"), {"year": [1, 2]}, r"'yaer', which the records lack .*year"),
        (SplitSettings(method="column"), {"year": [1, 2]}, "which the records lack"),
        (SplitSettings(method="time", column="labels"), {}, "expected numbers, dates or text"),
        (SplitSettings(method="column", column="part"), {"part": ["train", "valid"]}, r"train\.jsonl, line 2.*'valid'"),
        (SplitSettings(method="column", column="part"), {"part": ["train", None]}, "line 2: 'part' is None"),
        (SplitSettings(method="column", column="part"), {"part": ["dev", "test"]}, "No record is left for train"),
        (SplitSettings(dev=0.5, test=0.5), {}, "No record is left for train"),
    ],
)
def test_settings_that_do_not_fit_the_records_are_refused(how, metadata, message):
    with pytest.raises(DataError, match=message):
        fill_splits({"train": table_of(["1", "2"], **metadata)}, how)


@settings(deadline=None, max_examples=60)
@given(ids=st.sets(st.text(max_size=5), min_size=1, max_size=40), small=st.integers(1, 20), more=st.integers(0, 20))
def test_a_smaller_limit_keeps_a_subset_in_order(ids, small, more):
    table = table_of([i.encode("utf-8", "replace").decode() + str(n) for n, i in enumerate(sorted(ids))])
    splits = {"train": table, "dev": table, "test": table}
    few, many = limit_splits(splits, small), limit_splits(splits, small + more)
    for name, share in (("train", 1), ("dev", 5), ("test", 5)):
        lines = few[name]["source_line"].to_pylist()
        assert len(lines) == min(len(ids), max(1, small // share))
        assert lines == sorted(lines)
        assert set(lines) <= set(many[name]["source_line"].to_pylist())


def test_a_limited_subset_is_split_in_the_usual_shares(sample_dir):
    train = read(sample_dir, DownloadSettings(source=str(sample_dir))).splits["train"]
    subset = limit_splits({"train": train}, 3000)["train"]
    splits = fill_splits({"train": subset}, SplitSettings())
    # 3,000 draws at 0.1 have a standard deviation of 16.
    assert abs(splits["test"].num_rows - 300) < 100
