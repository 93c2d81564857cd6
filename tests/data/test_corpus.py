import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cascadexml.bundle import MANIFEST
from cascadexml.data.corpus import FORMAT, Corpus, Split
from cascadexml.data.readers import RECORD_SCHEMA
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError, FormatError

# Synthetic records: any text, few labels so that they recur.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
records = st.lists(
    st.tuples(texts, texts, st.lists(st.sampled_from("abcdef"), max_size=4), st.none() | st.integers(0, 9)), max_size=8
)


def table_of(rows) -> pa.Table:
    columns = {
        "id": [row[0] for row in rows],
        "text": [row[1] for row in rows],
        "labels": [row[2] for row in rows],
        "source_file": ["records.jsonl"] * len(rows),
        "source_line": list(range(1, len(rows) + 1)),
        "error": [None] * len(rows),
    }
    table = pa.table(columns, schema=RECORD_SCHEMA)
    return table.append_column("year", pa.array([row[3] for row in rows], pa.int64()))


def assert_equal(one: Corpus, other: Corpus) -> None:
    assert one.vocabulary == other.vocabulary
    assert one.fingerprint == other.fingerprint
    assert set(one.splits) == set(other.splits)
    for name, split in one.splits.items():
        found = other.splits[name]
        assert (split.ids, split.texts) == (found.ids, found.texts)
        assert split.Y.shape == found.Y.shape
        assert split.Y.dtype == found.Y.dtype == np.float32
        assert (split.Y != found.Y).nnz == 0
        assert split.metadata.equals(found.metadata)


@settings(deadline=None, max_examples=40)
@given(train=records, dev=records, test=records)
def test_what_is_saved_reads_back_equal(tmp_path_factory, train, dev, test):
    train = [*train, ("last", "text", ["a", "g"], None)]
    corpus = Corpus.from_records({"train": table_of(train), "dev": table_of(dev), "test": table_of(test)}, {"a": "A"})
    path = tmp_path_factory.mktemp("corpus") / "corpus"
    corpus.save(path)
    assert_equal(corpus, Corpus.load(path))
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        Y = corpus.splits[name].Y
        for n, row in enumerate(rows):
            assert {corpus.vocabulary.ids[column] for column in Y[n].indices} == set(row[2])
        assert set(Y.data.tolist()) <= {1.0}
        assert Y.has_canonical_format
    seen = {label for row in train for label in row[2]}
    assert set(corpus.vocabulary.ids[: corpus.vocabulary.L]) == seen
    assert corpus.splits["train"].Y[:, corpus.vocabulary.L :].nnz == 0


def test_unseen_labels_are_kept_behind_those_of_train(small_corpus, sample_dir):
    vocabulary = small_corpus.vocabulary
    assert len(vocabulary) > vocabulary.L
    used = {vocabulary.ids[c] for name in ("dev", "test") for c in small_corpus.splits[name].Y.indices}
    assert used & set(vocabulary.ids[vocabulary.L :]) == set(vocabulary.ids[vocabulary.L :])
    assert all(vocabulary.names)


def test_the_labels_of_train_are_a_view_of_its_matrix(small_corpus):
    Y, L = small_corpus.splits["train"].Y, small_corpus.vocabulary.L
    assert small_corpus.train_labels.shape == (len(small_corpus.splits["train"]), L)
    assert (small_corpus.train_labels != Y[:, :L]).nnz == 0 and small_corpus.train_labels.nnz == Y.nnz
    assert np.shares_memory(small_corpus.train_labels.data, Y.data)
    assert np.shares_memory(small_corpus.train_labels.indices, Y.indices)


def test_real_records_round_trip_whole_and_in_part(small_corpus, tmp_path):
    small_corpus.save(tmp_path / "corpus")
    assert_equal(small_corpus, Corpus.load(tmp_path / "corpus"))
    part = Corpus.load(tmp_path / "corpus", ["dev"])
    assert list(part.splits) == ["dev"]
    assert part.fingerprint == small_corpus.fingerprint
    assert part.splits["dev"].metadata.column_names == ["title", "year", "type", "lang"]
    with pytest.raises(FormatError, match="no split 'valid'"):
        Corpus.load(tmp_path / "corpus", ["valid"])


def test_the_same_corpus_gives_the_same_bytes(small_corpus, tmp_path):
    small_corpus.save(tmp_path / "one")
    small_corpus.save(tmp_path / "other")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()


def test_no_metadata_at_all(tmp_path):
    table = table_of([("1", "one", ["a"], None), ("2", "two", [], None)]).drop_columns("year")
    corpus = Corpus.from_records({"train": table}, {})
    corpus.save(tmp_path / "corpus")
    assert_equal(corpus, Corpus.load(tmp_path / "corpus"))
    assert corpus.splits["train"].metadata.num_columns == 0


def test_chunked_and_sliced_tables_give_the_same_corpus():
    rows = [(str(n), f"text {n}", ["a", "b"][: n % 3], n) for n in range(20)]
    whole = table_of(rows)
    pieces = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 1), whole.slice(8)])
    assert_equal(Corpus.from_records({"train": whole}, {}), Corpus.from_records({"train": pieces}, {}))


def test_another_content_has_another_fingerprint():
    rows = [("1", "one", ["a"], 1), ("2", "two", ["b"], 2)]
    changed = [
        [("1", "one", ["a"], 1), ("3", "two", ["b"], 2)],
        [("1", "one", ["a"], 1), ("2", "due", ["b"], 2)],
        [("1", "one", ["a"], 1), ("2", "two", ["a", "b"], 2)],
        [("1", "one", ["a"], 1), ("2", "two", ["b"], 3)],
    ]
    prints = {Corpus.from_records({"train": table_of(r)}, {}).fingerprint for r in [rows, *changed]}
    prints.add(Corpus.from_records({"train": table_of(rows)}, {"a": "A"}).fingerprint)
    assert len(prints) == 6


def test_an_older_vocabulary_keeps_its_rows():
    base = Vocabulary.build(["m", "z"], [], {"m": "M"})
    corpus = Corpus.from_records({"train": table_of([("1", "one", ["a", "z"], None)])}, {"a": "A"}, base)
    assert corpus.vocabulary.ids == ("m", "z", "a")
    assert corpus.vocabulary.names == ("M", None, "A")
    assert corpus.splits["train"].Y.toarray().tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"dev": table_of([("1", "t", ["a"], None)])}, "no split named train"),
        ({"train": table_of([("1", "t", [], None)])}, "No record of train has a label"),
        ({"train": table_of([(None, "t", ["a"], None)])}, "null id"),
        ({"train": table_of([("1", None, ["a"], None)])}, "null text"),
        ({"train": table_of([("1", "t", None, None)])}, "null labels"),
        ({"train": table_of([("1", "t", ["a", None], None)])}, "null label"),
        ({"train": pa.table({"id": ["1"], "text": ["t"]})}, "no column 'labels'"),
    ],
)
def test_records_that_make_no_corpus_are_refused(tables, message):
    with pytest.raises(DataError, match=message):
        Corpus.from_records(tables, {})


@pytest.fixture
def saved(small_corpus, tmp_path) -> Path:
    small_corpus.save(tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.mark.parametrize("name", ["train.parquet", "vocabulary.json", "manifest.json"])
def test_truncated_is_refused(saved, name):
    file = saved / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FormatError):
        Corpus.load(saved)


@pytest.mark.parametrize("name", ["train.parquet", "vocabulary.json"])
def test_one_changed_bit_is_refused(saved, name):
    file = saved / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(FormatError, match="differs from the SHA-256"):
        Corpus.load(saved)


def test_newer_is_refused(saved):
    manifest = saved / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": FORMAT.version + 1}))
    with pytest.raises(FormatError, match="install a newer cascadexml"):
        Corpus.load(saved)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([5], "outside the 2"),
        ([-1], "outside"),
        ([1, 0], "do not rise"),
        ([0, 0], "do not rise"),
        ([2**32], "cannot be read"),
    ],
)
def test_label_rows_that_do_not_fit_are_refused_despite_a_right_manifest(tmp_path, indices, message):
    labels = pa.array([indices], pa.large_list(pa.int64() if max(indices) > 2**31 else pa.int32()))
    with FORMAT.write(tmp_path / "corpus") as folder:
        Vocabulary.build(["a", "b"], ["c"], {}).save(folder / "vocabulary.json")
        pq.write_table(pa.table({"id": ["1"], "text": ["t"], "labels": labels}), folder / "train.parquet")
    with pytest.raises(FormatError, match=message):
        Corpus.load(tmp_path / "corpus")


def test_a_file_that_is_no_table_is_refused_despite_a_right_manifest(tmp_path):
    with FORMAT.write(tmp_path / "corpus") as folder:
        Vocabulary.build(["a"], [], {}).save(folder / "vocabulary.json")
        (folder / "train.parquet").write_bytes(b"no Parquet")
    with pytest.raises(FormatError, match="cannot be read as a split"):
        Corpus.load(tmp_path / "corpus")


def test_assembled_from_ready_made_splits(tmp_path):
    Y = sparse.csr_matrix(np.array([[1, 0], [1, 1]], np.float32))
    corpus = Corpus(
        {"train": Split(["1", "2"], ["one", "two"], Y, pa.table({"year": [1, 2]}))},
        Vocabulary(("a", "b"), (None, None), 2),
    )
    corpus.save(tmp_path / "corpus")
    assert_equal(corpus, Corpus.load(tmp_path / "corpus"))


def test_a_corpus_is_serialised_once_to_be_saved_and_once_for_its_fingerprint(tmp_path, small_corpus, monkeypatch):
    written = []
    write_table = pq.write_table
    monkeypatch.setattr(
        pq, "write_table", lambda table, *rest, **more: written.append(write_table(table, *rest, **more))
    )
    corpus = Corpus(small_corpus.splits, small_corpus.vocabulary)
    corpus.save(tmp_path / "corpus")
    assert len(written) == len(corpus.splits)
    loaded = Corpus.load(tmp_path / "corpus")
    assert corpus.fingerprint == corpus.fingerprint == loaded.fingerprint
    assert len(written) == 2 * len(corpus.splits)
