"""Row rules and figures. Bad records are crafted: they are edge cases that the bundled sample does not hold."""

import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadexml import quality
from cascadexml.config import ValidateSettings
from cascadexml.errors import DataError

BOUNDS = ValidateSettings(min_chars=3, max_chars=12, min_labels=1, max_labels=3)
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.string(),
        "labels": pa.list_(pa.string()),
        "source_file": pa.string(),
        "source_line": pa.int64(),
        "error": pa.string(),
    }
)


def record(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "text": "a text", "labels": ["x"], "source_file": "t.jsonl", "error": None} | fields


def raw(records: Sequence[Mapping[str, Any]], chunk: int | None = None) -> pa.Table:
    rows = [{**r, "source_line": line} for line, r in enumerate(records, start=1)]
    table = pa.Table.from_pylist(rows, SCHEMA)
    if chunk is None or not rows:
        return table
    return pa.concat_tables([table.slice(start, chunk) for start in range(0, len(rows), chunk)])


@pytest.fixture(scope="module")
def sample(sample_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Real records: the first 400 of each split of the bundled sample."""
    found = {}
    for split in ("train", "dev", "test"):
        with lzma.open(sample_dir / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
            found[split] = [record(**json.loads(line)) for line, _ in zip(lines, range(400), strict=False)]
    return found


def measured(splits: Mapping[str, Sequence[Mapping[str, Any]]], **bounds: Any) -> quality.Measured:
    tables = {split: pa.Table.from_pylist([{**r, "source_line": i} for i, r in enumerate(rows)]) for split, rows in
              splits.items()}  # fmt: skip
    return quality.measure(tables, {}, ValidateSettings(**bounds))


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("unparsable", {"id": None, "text": None, "labels": None, "error": "no JSON: line ends early"}),
        ("unparsable", {"error": "labels is a number"}),
        ("id_missing", {"id": None}),
        ("id_missing", {"id": " \t"}),
        ("text_missing", {"text": None}),
        ("text_missing", {"text": ""}),
        ("text_missing", {"text": " \n\u3000"}),
        ("text_only_damage", {"text": "\ufffd\ufffd \ufffd"}),
        ("text_only_damage", {"text": "Ã¤ Ã¶\x00"}),
        ("text_too_short", {"text": "  ab  "}),
        ("text_too_long", {"text": "ä" * 13}),
        ("labels_missing", {"labels": None}),
        ("labels_missing", {"labels": []}),
        ("labels_missing", {"labels": ["", None, " "]}),
        ("labels_too_many", {"labels": ["1", "2", "3", "4"]}),
    ],
)
def test_a_bad_record_is_refused_for_its_reason(reason: str, fields: dict[str, Any]) -> None:
    result = quality.screen(raw([record(), record(**({"id": "b"} | fields))]), BOUNDS)
    assert result.reasons.to_pylist() == [reason]
    assert result.rejected.column("source_line").to_pylist() == [2]
    assert result.kept.column("source_line").to_pylist() == [1]


def test_fewer_labels_than_the_bound_are_too_few() -> None:
    bounds = ValidateSettings(min_labels=2)
    result = quality.screen(raw([record(labels=["x", "x"]), record(labels=[]), record(labels=["x", "y"])]), bounds)
    assert result.reasons.to_pylist() == ["labels_too_few", "labels_missing"]


def test_records_at_the_bounds_are_kept() -> None:
    rows = [record(id="1", text=" abc "), record(id="2", text="ä" * 12), record(id="3", labels=["1", "2", "3"])]
    assert quality.screen(raw(rows), BOUNDS).rejected.num_rows == 0


def test_records_without_labels_are_kept_where_the_bound_is_zero() -> None:
    result = quality.screen(raw([record(labels=None), record(id="b", labels=[])]), ValidateSettings(min_labels=0))
    assert result.kept.column("labels").to_pylist() == [[], []]


def test_the_first_acceptable_record_of_an_id_is_kept() -> None:
    rows = [record(text=""), record(text="first"), record(text="second"), record(id="b")]
    result = quality.screen(raw(rows), BOUNDS)
    assert result.kept.column("text").to_pylist() == ["first", "a text"]
    assert result.reasons.to_pylist() == ["text_missing", "id_duplicated"]


def test_repeated_and_blank_labels_are_removed_and_counted() -> None:
    rows = [record(labels=["y", "x", "y", "", "x"]), record(id="b", labels=["x", "z"])]
    result = quality.screen(raw(rows), BOUNDS)
    assert result.kept.column("labels").to_pylist() == [["y", "x"], ["x", "z"]]
    assert (result.repaired, result.labels_removed) == (1, 3)


LABELS = st.lists(st.sampled_from(["x", "y", "z", "w", "", " ", None]), max_size=6)
TEXTS = st.text(alphabet="ab ä\n\x00\ufffdÃ¤", max_size=15)
RECORDS = st.lists(
    st.builds(
        record,
        id=st.sampled_from(["a", "b", "c", "", None]),
        text=st.none() | TEXTS,
        labels=st.none() | LABELS,
        error=st.sampled_from([None, None, None, "broken"]),
    ),
    max_size=12,
)


def slow_reason(row: Mapping[str, Any], seen: set[str]) -> str | None:
    """The rules as the documentation words them, one record at a time."""
    text = (row["text"] or "").strip()
    labels = {label for label in row["labels"] or [] if label and label.strip()}
    rest = text.replace("Ã¤", "").replace("\x00", "").replace("\ufffd", "").strip()
    rules = {
        "unparsable": row["error"] is not None,
        "id_missing": not (row["id"] or "").strip(),
        "text_missing": not text,
        "text_only_damage": not rest,
        "text_too_short": len(text) < 3,
        "text_too_long": len(text) > 12,
        "labels_missing": not labels,
        "labels_too_many": len(labels) > 3,
        "id_duplicated": row["id"] in seen,
    }
    return next((reason for reason, holds in rules.items() if holds), None)


@given(RECORDS, st.integers(1, 5))
@settings(deadline=None, max_examples=150)
def test_nothing_is_lost_and_every_reason_is_right(rows: list[dict[str, Any]], chunk: int) -> None:
    table = raw(rows, chunk)
    result = quality.screen(table, BOUNDS)
    seen: set[str] = set()
    expected = []
    for row in rows:
        expected.append(slow_reason(row, seen))
        if expected[-1] is None:
            seen.add(row["id"])
    kept = [line for line, reason in enumerate(expected, start=1) if reason is None]
    assert result.kept.column("source_line").to_pylist() == kept
    assert result.reasons.to_pylist() == [reason for reason in expected if reason]
    lines = sorted(kept + result.rejected.column("source_line").to_pylist())
    assert lines == list(range(1, len(rows) + 1))
    as_read = [row for row, reason in zip(table.to_pylist(), expected, strict=True) if reason]
    assert result.rejected.to_pylist() == as_read
    for row in result.kept.to_pylist():
        given_labels = rows[row["source_line"] - 1]["labels"]
        assert row["labels"] == list(dict.fromkeys(x for x in given_labels if x and x.strip()))


@given(st.fixed_dictionaries(dict.fromkeys(("train", "dev", "test"), RECORDS)))
@settings(deadline=None, max_examples=30)
def test_kept_and_refused_add_up_in_every_split(splits: dict[str, list[dict[str, Any]]]) -> None:
    found = quality.measure({split: raw(rows) for split, rows in splits.items()}, {}, BOUNDS)
    where = found.rejects.column("split").to_pylist()
    for split, rows in splits.items():
        figures = found.figures[split]
        assert figures["read"] == len(rows) == found.kept[split].num_rows + where.count(split)
        assert figures["refused"] == where.count(split) == sum(figures["refused_for"].values())
        assert found.facts[split].column("n_distinct_labels").to_pylist() == [
            len(set(labels)) for labels in found.kept[split].column("labels").to_pylist()
        ]


def test_rejects_name_split_line_reason_and_metadata() -> None:
    splits = {
        "train": [record(year=2001, text=""), record(year=2002)],
        "test": [record(place="Köln", text="fine text"), record(id=None, place=None, labels=["x", "x"])],
    }
    rows = measured(splits).rejects.to_pylist()
    assert [(r["split"], r["source_file"], r["source_line"], r["reason"]) for r in rows] == [
        ("train", "t.jsonl", 0, "text_missing"),
        ("test", "t.jsonl", 1, "id_missing"),
    ]
    assert rows[1]["labels"] == ["x", "x"]
    assert [json.loads(r["metadata"]) for r in rows] == [{"year": 2001}, {"place": None}]


def test_metadata_may_bear_the_names_of_the_rejects_columns() -> None:
    splits = {
        "train": [record(split="x", reason="y", metadata="z"), record(text="", split="x", reason="y", metadata="z")]
    }
    (row,) = measured(splits).rejects.to_pylist()
    assert (row["split"], row["reason"]) == ("train", "text_missing")
    assert json.loads(row["metadata"]) == {"split": "x", "reason": "y", "metadata": "z"}


def test_rejects_keep_their_lines_where_there_is_no_metadata() -> None:
    found = quality.measure({"train": raw([record(), record(text=None)])}, {}, BOUNDS)
    assert found.rejects.column("metadata").to_pylist() == ["{}"]


def test_planted_leaks_and_duplicates_are_found_exactly(sample: dict[str, list[dict[str, Any]]]) -> None:
    clean = measured(sample).figures
    assert [clean[split]["leaked"] + clean[split]["duplicates"] for split in sample] == [0, 0, 0]
    splits = {split: [dict(row) for row in rows] for split, rows in sample.items()}
    for place in (3, 50, 399):
        splits["test"][place]["text"] = f" {sample['train'][place]['text']}\n"
    splits["test"][7]["text"] = sample["dev"][7]["text"]
    splits["train"][20]["text"] = splits["train"][30]["text"] = sample["train"][10]["text"]
    splits["dev"][0]["id"] = sample["train"][0]["id"]
    found = measured(splits)

    def flagged(split: str, name: str) -> list[str]:
        facts = found.facts[split]
        return facts.column("id").filter(facts.column(name)).to_pylist()

    assert flagged("test", "text_stands_in_train") == [sample["test"][place]["id"] for place in (3, 50, 399)]
    assert flagged("test", "text_stands_in_dev") == [sample["test"][7]["id"]]
    assert flagged("train", "text_stands_earlier") == [sample["train"][place]["id"] for place in (20, 30)]
    assert flagged("dev", "id_stands_in_train") == [sample["train"][0]["id"]]
    assert found.figures["test"]["leaked"] == 3
    assert found.figures["test"]["leak_share"] == 3 / 400
    assert found.figures["train"]["duplicate_share"] == 2 / 400
    assert all(table.num_rows == 400 for table in found.kept.values())


def test_unseen_labels_are_counted_and_kept(sample: dict[str, list[dict[str, Any]]]) -> None:
    found = measured(sample)
    seen = {label for row in sample["train"] for label in row["labels"]}
    for split in ("dev", "test"):
        labels = [label for row in sample[split] for label in row["labels"]]
        unseen = [label for label in labels if label not in seen]
        assert unseen, "a few hundred records do not cover the labels"
        assert found.figures[split]["unseen_labels"] == len(unseen)
        assert found.figures[split]["distinct_unseen_labels"] == len(set(unseen))
        assert found.figures[split]["unseen_label_share"] == len(unseen) / len(labels)
        assert found.kept[split].column("labels").to_pylist() == [row["labels"] for row in sample[split]]
    assert found.figures["train"]["unseen_labels"] == 0


def test_labels_without_a_name_are_counted() -> None:
    tables = {"train": raw([record(labels=["x", "y"]), record(id="b", labels=["x", "z"])])}
    assert quality.measure(tables, {"x": "ex"}, BOUNDS).figures["train"]["unnamed_labels"] == 2
    assert quality.measure(tables, {}, BOUNDS).figures["train"]["unnamed_labels"] == 0


def test_metadata_kinds_tell_a_clash_from_a_harmless_difference() -> None:
    rows = [record(year=2001, price=1, note=None), record(id="b", year=2002, price=2, note=None)]
    other = [
        record(id="c", year="n. d.", price=1.5, note="x", extra=None),
        record(id="d", year="1999", price=2.0, extra=True),
    ]
    found = measured({"train": rows, "test": other}).figures
    assert found["train"]["metadata"] == {"year": "number", "price": "number", "note": "empty", "extra": "absent"}
    assert found["test"]["metadata"]["year"] == "string"
    assert found["test"]["metadata"]["price"] == "number"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("replacement_character", "M\ufffdller"),
        ("control_character", "form\x0cfeed"),
        ("control_character", "next\x85line"),
        ("mojibake", "MÃ¼ller"),
        ("mojibake", "StraÃŸe"),
        ("mojibake", "20 Â°C"),
        ("mojibake", "the authorâ€™s"),
        ("private_use_or_bom", "(\uf062 = .18)"),
        ("private_use_or_bom", "\ufefftitle"),
    ],
)
def test_damage_is_counted_by_kind_and_kept(kind: str, text: str) -> None:
    found = quality.measure({"train": raw([record(text=text), record(id="b")])}, {}, ValidateSettings())
    assert found.figures["train"]["damaged_by"] == {kind: 1}
    assert found.figures["train"]["damaged_share"] == 0.5
    assert found.kept["train"].column("text").to_pylist() == [text, "a text"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@given(text=st.text(alphabet="äöüßÄÖÜéèàçñø£§", min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_utf8_read_in_another_encoding_is_damage(encoding: str, text: str) -> None:
    try:
        garbled = text.encode().decode(encoding)
    except UnicodeDecodeError:
        return
    table = pa.chunked_array([[garbled, text]])
    assert quality.rules.damaged(table).tolist() == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "Größe, Übermaß und „Anführung“ \u2013 5 €",
        "ÂGE, À côté de l\u2019œuvre « être »",
        "NÃO É SÃO, coração",
        "Ελληνικά, русский, 日本語, عربى, हिन्दी",
        "tabs\tand\nlines\r\n, 20 °C ± 1 µm, H₂O, 👩‍🔬",
    ],
)
def test_sound_text_is_not_damaged(text: str) -> None:
    assert not quality.rules.damaged(pa.chunked_array([[text]])).any()


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="raw records of dev have no column 'labels'"):
        quality.screen(raw([record()]).drop_columns(["labels"]), BOUNDS, "dev")


def test_a_column_of_a_wrong_type_is_named() -> None:
    table = raw([record()])
    table = table.set_column(2, "labels", pa.array([7]))
    with pytest.raises(DataError, match="Column 'labels' of the raw records of train is int64"):
        quality.screen(table, BOUNDS, "train")


def test_columns_that_hold_only_nulls_are_accepted() -> None:
    table = pa.table({name: pa.nulls(3) for name in SCHEMA.names})
    result = quality.screen(table, BOUNDS)
    assert result.reasons.to_pylist() == ["id_missing"] * 3
