import json
from pathlib import Path

import pyarrow as pa
import pytest

from cascadexml.config import ColumnSettings, DownloadSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.labelled import label_matrix, read_labelled
from cascadexml.errors import DataError


def test_labels_that_stand_twice_or_are_unknown(small_corpus: Corpus) -> None:
    first = small_corpus.vocabulary.ids[0]
    labels = pa.array([["new:1", first, first], ["new:2", "new:1"]])
    Y = label_matrix(labels, small_corpus.vocabulary)
    V = len(small_corpus.vocabulary)
    assert Y.shape == (2, V + 2)
    assert Y.toarray()[:, [0, V, V + 1]].tolist() == [[1, 1, 0], [0, 1, 1]]
    assert Y.sum() == 4


def test_the_matrix_holds_the_ids_of_each_record(small_corpus: Corpus) -> None:
    test, ids = small_corpus.splits["test"], small_corpus.vocabulary.ids
    lists = [[ids[row] for row in test.Y[n].indices] for n in range(len(test))]
    Y = label_matrix(pa.array(lists, pa.list_(pa.string())), small_corpus.vocabulary)
    assert (Y != test.Y).nnz == 0


def test_columns_are_called_as_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_text("headline,body,tags\nWater,is wet,a|b\n")
    columns = ColumnSettings(id="key", text="headline+body", labels="tags")
    found = read_labelled(file, DownloadSettings(source=str(file), columns=columns, label_separator="|"))
    assert (found.texts, found.labels.to_pylist(), found.left_out) == (["Water is wet"], [["a", "b"]], 0)


def test_records_without_text_or_labels_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [{"text": "a", "labels": ["x"]}, {"text": "b", "labels": []}, {"labels": ["x"]}, {"text": "c"}]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    found = read_labelled(file, DownloadSettings(source=str(file)))
    assert (found.texts, found.labels.to_pylist(), found.left_out) == (["a"], [["x"]], 4)
    assert len(found) == 1
    file.write_text('{"text": "b", "labels": []}\n')
    with pytest.raises(DataError, match="none of 1 records has text and labels"):
        read_labelled(file, DownloadSettings(source=str(file)))
    with pytest.raises(DataError, match="is not a file"):
        read_labelled(tmp_path, DownloadSettings(source=str(tmp_path)))
