"""Whatever a file holds, a reader gives records or one clear sentence: random files of hostile parts, by seed."""

import gzip
import os
import random
from pathlib import Path

import pytest

from cascadexml.config import DownloadSettings
from cascadexml.data.readers import RECORD_SCHEMA, read
from cascadexml.errors import CascadeXMLError

CASES = 2000
MORE_CASES = int(os.environ.get("SOAK_CASES", "100000"))
SETTINGS = DownloadSettings(source="not read here")

VALUES = [
    *("null", "true", '""', '"x"', '"ä"', '"\\ud800"', '"\\u0000"', "-1", "0", "1.5", "[]", "{}", "[null]"),
    *("9223372036854775808", "-9223372036854775809", "1e999", "-1e999", "NaN", "9" * 5000, '"2020-01-01"'),
    *('"[1,2]"', '"[\\"a\\", {}]"', '"' + "[" * 5000 + '"', "[" * 2000 + "]" * 2000, "[" * 990 + "]" * 990),
    *('["a","b"]', '{"a":1}', "[1,[2]]", '["a",1]', '"a;b"', '[{"a":[1]}]'),
]
KEYS = [
    *("id", "text", "labels", "title", "year", "ä", "\\ud800", "", "\\u0000", "a.b", "error", "error_in_source"),
    *("error_in_source_in_source", "source_file", "source_line", "source_line_in_source"),
]
CELLS = [
    *("", "x", '"x"', '"a', "ä", "\x00", "nan", "-inf", "1e999", "99999999999999999999", "[1", '["a"]', "a;b"),
    *("true", "2020-01-01", "x" * 200_000, "\ufeff", '"a\nb"', "[" * 5000),
]
COLUMNS = ["error", "error_in_source", "year", "", "id", "ä", "source_file"]


def json_lines(random: random.Random) -> bytes:
    rows = []
    for _ in range(random.randint(1, 5)):
        chance = random.random()
        if chance < 0.1:
            rows.append(random.choice(VALUES).encode())
        elif chance < 0.15:
            rows.append(random.randbytes(random.randint(1, 30)))
        else:
            record = {"id": '"1"', "text": '"abc"', "labels": '["x"]'}
            record |= {random.choice(KEYS): random.choice(VALUES) for _ in range(random.randint(0, 4))}
            if random.random() < 0.2:
                del record[random.choice(list(record))]
            rows.append(("{" + ",".join(f'"{key}":{value}' for key, value in record.items()) + "}").encode())
    content = b"[" + b",".join(rows) + b"]" if random.random() < 0.1 else b"\n".join(rows)
    if random.random() < 0.1:
        at = random.randrange(len(content) + 1)
        content = content[:at] + random.randbytes(1) + content[at:]
    return content


def table(random: random.Random) -> bytes:
    columns = ["id", "text", "labels", *random.choices(COLUMNS, k=random.randint(0, 3))]
    if random.random() < 0.2:
        random.shuffle(columns)
    delimiter = random.choice(",,,;\t")
    rows = [
        random.choices(CELLS, k=max(0, len(columns) + random.choice([0, 0, 0, 1, -1])))
        for _ in range(random.randint(0, 5))
    ]
    end = random.choice(["\n", "\n", "\r\n", "\r"])
    content = end.join(delimiter.join(row) for row in [columns, *rows])
    return content.encode(random.choice(["utf-8", "utf-8", "latin-1", "utf-16"]), "replace")


@pytest.mark.parametrize("cases", [CASES, pytest.param(MORE_CASES, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "jsonl.gz"])
def test_every_file_gives_records_or_one_sentence(tmp_path: Path, kind: str, cases: int) -> None:
    read_at_all = 0
    for seed in range(cases // 5):
        chosen = random.Random(seed)
        content = table(chosen) if kind in ("csv", "tsv") else json_lines(chosen)
        if kind == "jsonl.gz":
            content = gzip.compress(content)
            content = content[: chosen.randrange(len(content))] if chosen.random() < 0.3 else content
        file = tmp_path / f"train.{kind}"
        file.write_bytes(content)
        try:
            found = read(file, SETTINGS).splits["train"]
        except CascadeXMLError as error:
            assert "\n" not in str(error), seed
            continue
        except Exception as error:
            error.add_note(f"the file of seed {seed} begins with {content[:200]!r}")
            raise
        read_at_all += 1
        assert found.schema.names[: len(RECORD_SCHEMA)] == RECORD_SCHEMA.names
        assert len(set(found.column_names)) == len(found.column_names)
    assert read_at_all > cases // 50
