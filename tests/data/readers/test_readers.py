"""Every format, written from the same real records, must read back as the same records."""

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cascadexml.config import ColumnSettings, DownloadSettings
from cascadexml.data.readers import RECORD_SCHEMA, read
from cascadexml.errors import DataError

AUTO = DownloadSettings(source="not read here")
CORE = ["id", "text", "labels"]


@pytest.fixture(scope="module")
def records(sample_dir):
    with lzma.open(sample_dir / "dev.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(next(lines)) for _ in range(40)]


def write_jsonl(folder, records, split="train"):
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def delimited(records, delimiter, join):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(records[0])
    writer.writerows([join(v) if isinstance(v, list) else v for v in r.values()] for r in records)
    return out.getvalue().encode()


def write_records(folder, records, kind):
    lines = "".join(json.dumps(r) + "\n" for r in records).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), folder / "train.parquet", row_group_size=7)
        return
    if kind == "parquet with large, dictionary and text columns":
        table = pa.Table.from_pylist([r | {"labels": json.dumps(r["labels"])} for r in records])
        kinds = {"text": pa.large_string(), "type": pa.dictionary(pa.int32(), pa.string())}
        for name, type_ in kinds.items():
            table = table.set_column(table.column_names.index(name), name, table[name].combine_chunks().cast(type_))
        pq.write_table(table, folder / "train.parquet")
        return
    name, content = {
        "jsonl": ("train.jsonl", lines),
        "jsonl.xz": ("train.jsonl.xz", lzma.compress(lines)),
        "json.gz": ("train.json.gz", gzip.compress(lines)),
        "jsonl.bz2": ("train.jsonl.bz2", bz2.compress(lines)),
        "json array": ("train.json", json.dumps(records, indent=2).encode()),
        "BOM and CRLF": ("train.jsonl", b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n\r\n")),
        "csv": ("train.csv", delimited(records, ",", ";".join)),
        "csv, labels as JSON": ("train.csv.gz", gzip.compress(delimited(records, ",", json.dumps))),
        "tsv": ("train.tsv", delimited(records, "\t", ";".join)),
    }[kind]
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "jsonl", "jsonl.xz", "json.gz", "jsonl.bz2", "json array", "BOM and CRLF", "csv", "csv, labels as JSON", "tsv",
        "parquet", "parquet with large, dictionary and text columns",
    ],
)  # fmt: skip
def test_formats_of_whole_records_agree(tmp_path, records, kind):
    write_records(tmp_path, records, kind)
    data = read(tmp_path, AUTO)
    table = data.splits["train"]
    assert table.schema.names == [*RECORD_SCHEMA.names, "title", "year", "type", "lang"]
    assert table.schema.field("year").type == pa.int64()
    assert table.select(RECORD_SCHEMA.names).schema == RECORD_SCHEMA
    assert table.select(list(records[0])).to_pylist() == records
    assert table["error"].null_count == len(records)
    assert set(table["source_file"].to_pylist()) == {data.files[0].name}


def label_matrix(records):
    ids = sorted({label for r in records for label in r["labels"]})
    Y = sparse.lil_matrix((len(records), len(ids)), dtype=np.float32)
    for n, r in enumerate(records):
        Y[n, [ids.index(label) for label in r["labels"]]] = 1.0
    return ids, sparse.csr_matrix(Y)


@pytest.mark.parametrize("layout", ["npz", "npz, Y.txt", "pecos", "text matrix", "json"])
def test_matrix_layouts_agree(tmp_path, records, layout):
    ids, Y = label_matrix(records)
    texts = "".join(r["text"] + "\n" for r in records)
    for short, rows in (("trn", slice(0, 30)), ("tst", slice(30, 40))):
        lines = "".join(texts.splitlines(keepends=True)[rows])
        if layout == "json":
            content = "".join(
                json.dumps({"uid": r["id"], "title": r["text"], "target_ind": Y[n].indices.tolist()}) + "\n"
                for n, r in list(enumerate(records))[rows]
            )
            (tmp_path / f"{short}.json.gz").write_bytes(gzip.compress(content.encode()))
        elif layout == "text matrix":
            body = "".join(" ".join(f"{c}:1.000000" for c in row.indices) + "\n" for row in Y[rows])
            (tmp_path / f"{short}_X.txt").write_text(lines)
            (tmp_path / f"{short}_X_Y.txt").write_text(f"{Y[rows].shape[0]} {len(ids)}\n{body}")
        else:
            (tmp_path / f"X.{short}.txt").write_text(lines)
            sparse.save_npz(tmp_path / f"Y.{short}.npz", Y[rows])
    if layout == "json":
        content = "".join(json.dumps({"uid": i, "title": f"name of {i}"}) + "\n" for i in ids)
        (tmp_path / "lbl.json.gz").write_bytes(gzip.compress(content.encode()))
    elif layout != "npz":
        name = "output-items.txt" if layout == "pecos" else "Y.txt"
        (tmp_path / name).write_text("".join(f"name of {i}\n" for i in ids))

    data = read(tmp_path, AUTO)
    assert list(data.splits) == ["train", "test"]
    for split, rows in (("train", slice(0, 30)), ("test", slice(30, 40))):
        table = data.splits[split]
        named = [i if layout == "json" else str(ids.index(i)) for i in ids]
        expected = [{named[ids.index(label)] for label in r["labels"]} for r in records[rows]]
        assert [set(labels) for labels in table["labels"].to_pylist()] == expected
        assert table["text"].to_pylist() == [r["text"] for r in records[rows]]
        first = records[rows][0]["id"] if layout == "json" else f"{split}-1"
        assert table["id"][0].as_py() == first
        assert table["source_line"].to_pylist() == list(range(1, len(expected) + 1))
    if layout == "npz":
        assert data.label_names == {}
    else:
        key = ids[3] if layout == "json" else "3"
        assert data.label_names[key] == f"name of {ids[3]}"
        assert len(data.label_names) == len(ids)


def test_the_bundled_sample(sample_dir):
    data = read(sample_dir, AUTO)
    assert {name: table.num_rows for name, table in data.splits.items()} == {"train": 15000, "dev": 1500, "test": 3000}
    assert all(table["error"].null_count == table.num_rows for table in data.splits.values())
    used = {label for t in data.splits.values() for labels in t["labels"].to_pylist() for label in labels}
    assert used <= set(data.label_names)
    assert not any("incoming" in file.parts for file in data.files)


def test_bad_lines_keep_their_place(tmp_path):
    good = {"id": "1", "text": "t", "labels": ["a"]}
    lines = [
        json.dumps(good).encode(),
        b'{"id": "2", "text": "cut sh',
        b"[1, 2]",
        b"\xff\xfe not UTF-8",
        b"",
        b'{"id": "6", "text": "\\ud800", "labels": ["a"]}',
        b'{"id": {"no": 1}, "text": "t", "labels": ["a"]}',
        b'{"id": "8", "text": 5, "labels": ["a"]}',
        b'{"id": "9", "text": "t", "labels": [1.5]}',
        b'{"id": "10", "text": "t", "labels": {"a": 1}}',
        b"[" * 100_000,
        b'{"id": 12, "text": "\\ud83d\\ude00", "labels": [7]}',
        b'{"text": "no id, no labels"}',
    ]
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    table = read(tmp_path, AUTO).splits["train"]
    rows = {row["source_line"]: row for row in table.to_pylist()}
    assert set(rows) == {1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13}
    assert {line for line, row in rows.items() if row["error"]} == {2, 3, 4, 6, 7, 8, 9, 10, 11}
    assert "not JSON" in rows[2]["error"]
    assert "UTF-8" in rows[4]["error"]
    assert "surrogate" in rows[6]["error"]
    assert "text is a int" in rows[8]["error"]
    assert [rows[12][c] for c in CORE] == ["12", "\N{GRINNING FACE}", ["7"]]
    assert [rows[13][c] for c in CORE] == [None, "no id, no labels", None]


def test_bad_csv_rows_keep_their_place(tmp_path):
    content = (
        b'id,text,labels,code,n\n1,"a, quoted\ntext",x;y,007,1\n2,too few\n3,\xff,x,008,2\n4,t,[broken,009,3\n5,,,,\n'
    )
    (tmp_path / "train.csv").write_bytes(content)
    table = read(tmp_path, AUTO).splits["train"]
    assert table["source_line"].to_pylist() == [2, 4, 5, 6, 7]
    assert [bool(e) for e in table["error"].to_pylist()] == [False, True, True, True, False]
    assert table["text"][0].as_py() == "a, quoted\ntext"
    assert table["labels"].to_pylist()[0] == ["x", "y"]
    assert table["labels"].to_pylist()[4] == []
    assert table["code"].to_pylist() == ["007", None, None, "009", None]
    assert table["n"].to_pylist() == [1, None, None, 3, None]


@settings(deadline=None, max_examples=60)
@given(
    content=st.binary(max_size=200), kind=st.sampled_from(["train.jsonl", "train.csv", "train.tsv", "train.parquet"])
)
def test_any_bytes_give_records_or_one_clear_error(tmp_path_factory, content, kind):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / kind).write_bytes(content)
    try:
        table = read(folder, AUTO).splits["train"]
    except DataError:
        return
    assert table.select(RECORD_SCHEMA.names).schema == RECORD_SCHEMA


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.dictionaries(st.sampled_from(["id", "text", "labels", "error", "x"]), json_values), max_size=5)
)
def test_any_json_gives_a_row_a_line_that_parquet_can_hold(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("json")
    good = {"id": "1", "text": "t", "labels": ["a"]}
    write_jsonl(folder, [good, *values])
    table = read(folder, AUTO).splits["train"]
    assert table["source_line"].to_pylist() == list(range(1, len(values) + 2))
    pq.write_table(table, folder / "out.parquet")
    assert pq.read_table(folder / "out.parquet").num_rows == len(values) + 1


def test_metadata_types(tmp_path):
    rows = [
        {
            "whole": 1,
            "mixed": 1,
            "number": 1,
            "tags": ["a"],
            "deep": {"a": 1},
            "empty": None,
            "big": 2**70,
            "late": None,
        },
        {"whole": 2, "mixed": "b", "number": 1.5, "tags": [], "deep": {}, "empty": None, "big": 1, "late": True},
    ]
    write_jsonl(tmp_path, [{"id": str(n), "text": "t", "labels": ["a"]} | row for n, row in enumerate(rows)])
    table = read(tmp_path, AUTO).splits["train"]
    found = {name: str(table.schema.field(name).type) for name in rows[0]}
    assert found == {
        "whole": "int64", "mixed": "string", "number": "double", "tags": "list<item: string>", "deep": "string",
        "empty": "string", "big": "string", "late": "bool",
    }  # fmt: skip
    assert table["mixed"].to_pylist() == ["1", "b"]
    assert table["deep"].to_pylist() == ['{"a": 1}', "{}"]


def test_types_that_differ_between_chunks_are_brought_together(tmp_path, monkeypatch):
    monkeypatch.setattr("cascadexml.data.readers.records.CHUNK", 2)
    rows = [{"n": 1, "s": 1}, {"n": 2}, {"n": 0.5, "s": "x"}, {"n": None}, {"s": True, "new": "here"}]
    write_jsonl(tmp_path, [{"id": str(n), "text": "t", "labels": ["a"]} | row for n, row in enumerate(rows)])
    table = read(tmp_path, AUTO).splits["train"]
    assert table["n"].to_pylist() == [1.0, 2.0, 0.5, None, None]
    assert table["s"].to_pylist() == ["1", None, "x", None, "true"]
    assert table["new"].to_pylist() == [None, None, None, None, "here"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_columns_by_settings_and_joined_texts(tmp_path, kind):
    rows = [
        {"key": "1", "title": "A", "abstract": "B", "subjects": "x|y", "text": "kept", "id": "also kept"},
        {"key": "2", "title": "C", "abstract": "", "subjects": "x", "text": "kept", "id": "also kept"},
    ]
    write_records(tmp_path, rows, kind)
    columns = ColumnSettings(id="key", text="title + abstract", labels="subjects")
    table = read(tmp_path, replace(AUTO, columns=columns, label_separator="|")).splits["train"]
    assert table.select(CORE).to_pylist() == [
        {"id": "1", "text": "A B", "labels": ["x", "y"]},
        {"id": "2", "text": "C", "labels": ["x"]},
    ]
    assert table["text_in_source"].to_pylist() == ["kept", "kept"]
    assert table["id_in_source"].to_pylist() == ["also kept", "also kept"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_wrong_column_name_is_named(tmp_path, records, kind):
    write_records(tmp_path, records, kind)
    with pytest.raises(DataError, match=r"'body'.*title.*download\.columns"):
        read(tmp_path, replace(AUTO, columns=ColumnSettings(text="body")))


@pytest.mark.parametrize("suffix", ["xz", "gz", "bz2"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "no archive"])
def test_damaged_compressed_files_are_refused(tmp_path, records, suffix, damage):
    compress = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}[suffix]
    content = bytearray(compress(json.dumps(records[0]).encode() * 200))
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b'{"id": "1"}')
    (tmp_path / f"train.jsonl.{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=f"train.jsonl.{suffix} (is damaged|cannot be read)"):
        read(tmp_path, AUTO)


def test_a_damaged_parquet_file_is_refused(tmp_path, records):
    write_records(tmp_path, records, "parquet")
    file = tmp_path / "train.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(tmp_path, AUTO)


def test_one_file_alone_is_train(tmp_path, records):
    write_jsonl(tmp_path, records, "anything")
    for source in (tmp_path, tmp_path / "anything.jsonl"):
        data = read(source, AUTO)
        assert list(data.splits) == ["train"]
        assert data.splits["train"].num_rows == len(records)


def test_a_folder_inside_a_folder_and_mixed_formats(tmp_path, records):
    inner = tmp_path / "dataset-1.0" / "data"
    inner.mkdir(parents=True)
    (inner / "train.tsv").write_bytes(delimited(records, "\t", ";".join))
    write_jsonl(inner, records, "test")
    (inner / "label_texts.json").write_text('{"a": "Apple"}')
    (inner / "README.md").write_text("# About")
    data = read(tmp_path, AUTO)
    assert list(data.splits) == ["train", "test"]
    assert data.label_names == {"a": "Apple"}
    assert data.splits["train"].select(CORE).equals(data.splits["test"].select(CORE))


def test_an_explicit_format_reads_any_name(tmp_path, records):
    (tmp_path / "train.txt").write_bytes(delimited(records, "\t", ";".join))
    assert read(tmp_path, replace(AUTO, format="tsv")).splits["train"].num_rows == len(records)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no train file and no file of a known format"),
        ({"a.csv": "", "b.csv": ""}, "2 files that could be it"),
        ({"train.csv": "", "train.jsonl": ""}, r"holds train\.csv and train\.jsonl"),
        ({"test.jsonl": "{}"}, "a test file and no train file"),
        ({"train.csv": ""}, "no column 'id'"),
        ({"train.jsonl": '{"id": "1"}'}, "No record of train has a 'text'"),
        ({"train.jsonl": "garbage"}, "not JSON"),
        ({"train.json": '[{"id":'}, "is not JSON"),
        ({"train.jsonl": '{"id":"1","text":"t","labels":["a"]}', "label_texts.json": "[1]"}, "must be one"),
        ({"X.trn.txt": "a\nb\n", "Y.trn.npz": "no zip"}, "not a SciPy sparse matrix"),
        ({"trn_X.txt": "a\nb\n", "trn_X_Y.txt": "1 3\n0:1\n"}, "has 2 lines, .* has 1 rows"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "1 3\n3:1\n"}, "outside 0 to 2"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "2 3\n1:1\n"}, "has 1 rows, its header says 2"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "1 3\nx:1\n"}, "line 2: expected column:value"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "1 3\n1" + 30 * "0" + ":1\n"}, "line 2: expected column:value"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "1 9999999999\n0:1\n"}, r"its shape is \(1, 9999999999\)"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "1 3" + 30 * "0" + "\n0:1\n"}, "line 1: expected the two numbers"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "1 3 5\n0 1:1\n"}, "features and no texts"),
        ({"trn_X.txt": "a\n", "trn_X_Y.txt": "1 3\n0:1\n", "Y.txt": "one\ntwo\n"}, "3 label columns, .* names 2"),
        ({"trn.json": '{"uid":"1","title":"t","target_ind":[4]}', "lbl.json": '{"uid":"a","title":"A"}'}, "outside"),
        ({"trn.json": '{"uid":"1","title":"t","target_ind":["x"]}', "lbl.json": '{"uid":"a"}'}, "no whole number"),
        ({"trn.json": '{"uid":"1","title":"t","target_ind":[0]}', "lbl.json": '{"title":"A"}'}, "there is no uid"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_read_are_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, AUTO)


def test_matrix_lines_that_are_not_utf8_keep_their_place(tmp_path):
    (tmp_path / "X.trn.txt").write_bytes(b"one\n\xff\nthree\n")
    sparse.save_npz(tmp_path / "Y.trn.npz", sparse.csr_matrix(np.array([[1, 0], [0, 1], [1, 1]])))
    table = read(tmp_path, AUTO).splits["train"]
    assert table["text"].to_pylist() == ["one", None, "three"]
    assert table["error"].to_pylist() == [None, "the line is not UTF-8", None]
    assert table["labels"].to_pylist() == [["0"], ["1"], ["0", "1"]]


def test_a_matrix_that_claims_many_columns_costs_only_those_that_occur(tmp_path):
    (tmp_path / "trn_X.txt").write_text("one\ntwo\n")
    (tmp_path / "trn_X_Y.txt").write_text("2 2147483647\n2147483646:1\n0:1 7:1\n")
    assert read(tmp_path, AUTO).splits["train"]["labels"].to_pylist() == [["2147483646"], ["0", "7"]]


def test_an_npz_that_would_crash_scipy_is_refused_as_a_source(tmp_path):
    """In a process of its own, which a native crash ends."""
    (tmp_path / "X.trn.txt").write_text("one\ntwo\n")
    np.savez(tmp_path / "Y.trn.npz", format=b"csr", shape=[2, 2], data=np.ones(2), indices=[0, 1], indptr=[0, 1000, -1])
    script = (
        "import sys, pathlib; from cascadexml.config import DownloadSettings\n"
        "from cascadexml.data.readers import read\n"
        "from cascadexml.errors import DataError\n"
        "try: read(pathlib.Path(sys.argv[1]), DownloadSettings(source=sys.argv[1]))\n"
        "except DataError as error: sys.exit(str(error))"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "Y.trn.npz is not a SciPy sparse matrix (indptr holds -1 to 1000" in ended.stderr


def test_metadata_that_are_called_as_columns_of_records_stay_apart(tmp_path):
    record = {
        "id": "1",
        "text": "a",
        "labels": ["x"],
        "error": "one",
        "error_in_source": "two",
        "error_in_source_in_source": 3,
    }
    write_jsonl(tmp_path, [record])
    (row,) = read(tmp_path, AUTO).splits["train"].to_pylist()
    assert row["error"] is None
    assert [row[f"error{'_in_source' * n}"] for n in (1, 2, 3)] == ["one", "two", 3]


def test_a_header_in_latin_1_is_named_as_such(tmp_path):
    (tmp_path / "train.csv").write_bytes("id,text,labels,Schl\u00fcssel\n1,a,x,y\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"header line of .*train.csv is not UTF-8, but perhaps Latin-1"):
        read(tmp_path, AUTO)
