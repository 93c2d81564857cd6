import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import FormatError

# Synthetic ids and names: any text that UTF-8 can hold.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
id_sets = st.sets(texts, max_size=12)


@settings(deadline=None, max_examples=60)
@given(ranked=id_sets, others=id_sets, names=st.dictionaries(texts, texts, max_size=12))
def test_what_is_saved_reads_back_equal(tmp_path_factory, ranked, others, names):
    vocabulary = Vocabulary.build(ranked, others, names)
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert vocabulary.L == len(ranked)
    assert set(vocabulary.ids) == ranked | others
    assert list(vocabulary.ids) == sorted(ranked) + sorted(others - ranked)


@settings(deadline=None, max_examples=60)
@given(first=id_sets, others=id_sets, second=id_sets, later=id_sets)
def test_extending_moves_no_ranked_row(first, others, second, later):
    old = Vocabulary.build(first, others, dict.fromkeys(first, "old"))
    new = old.extend(second, dict.fromkeys(second, "new"), later)
    assert new.ids[: old.L] == old.ids[: old.L]
    assert set(new.ids[: new.L]) == first | second
    assert set(new.ids) == first | others | second | later
    assert [new.names[new.row(i)] for i in first] == ["new" if i in second else "old" for i in first]


def test_rows_and_labels():
    vocabulary = Vocabulary.build(["b", "a"], ["z"], {"a": "Apple"})
    assert [vocabulary.row(i) for i in ("a", "b", "z", "?")] == [0, 1, 2, -1]
    assert vocabulary.rows(pa.array(["z", "?", None, "a"])).tolist() == [2, -1, -1, 0]
    assert vocabulary.rows(pa.chunked_array([["b"], ["a", "b"]])).tolist() == [1, 0, 1]
    assert vocabulary.label(0) == ("a", "Apple")
    assert vocabulary.label(2) == ("z", None)
    for row in (-1, 3):
        with pytest.raises(IndexError):
            vocabulary.label(row)


def test_the_same_id_twice_is_refused():
    with pytest.raises(ValueError, match="'a' stands twice"):
        Vocabulary(("a", "b", "a"), (None, None, None), 3)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "vocabulary.json"
    Vocabulary.build(["a", "b"], ["c"], {"a": "Apple"}).save(path)
    return path


def test_truncated_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-20])
    with pytest.raises(FormatError, match="cannot be read as a vocabulary"):
        Vocabulary.load(saved)


@pytest.mark.parametrize("change", [{"L": 1}, {"ids": ["b", "a", "c"]}, {"names": ["Pear", None, None]}])
def test_tampered_is_refused(saved, change):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | change))
    with pytest.raises(FormatError, match="SHA-256"):
        Vocabulary.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 2}, "install a newer"), ({"kind": "other"}, "expected a"), ({"version": "1"}, "expected a")],
)
def test_newer_or_other_is_refused(saved, change, message):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | change))
    with pytest.raises(FormatError, match=message):
        Vocabulary.load(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '"text"', "", "\ufffd"])
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(FormatError, match="cannot be read"):
        Vocabulary.load(path)
    with pytest.raises(FormatError, match="is missing"):
        Vocabulary.load(tmp_path / "none.json")
