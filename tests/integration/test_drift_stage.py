"""The drift stage on batches of every kind, good and poisoned, with a tiny model: as a process and in this one."""

import json
import lzma
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError
from stages import drift
from tests.conftest import S3Server, sample_records
from tests.support.params import SETTINGS as BASE
from tests.support.params import params_yaml
from tests.support.tiny_artifacts import pack_again, pack_tiny, tiny_reference

pytestmark = pytest.mark.integration

# The tiny model knows few of the sample's labels and ranks at random; the page of Evidently costs half a minute.
SETTINGS = replace(
    BASE, drift=replace(BASE.drift, report_rows=0, max_unseen_share=0.95, min_quality_share=0.0, max_unseen_excess=0.2)
)
FILES = {"verdict.json", "report.html", "report.json", "accepted.parquet", "rejects.parquet"}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    pack_tiny(folder, small_corpus)
    pack_again(folder / "carrying", folder, small_corpus, reference=tiny_reference(folder, small_corpus))
    return folder / "carrying"


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def same_years(n: int = 150) -> list[Row]:
    """Real records of the training's years that neither the tiny model nor its reference has seen."""
    return sample_records("test", 60 + n)[60:]


def write(rows: list[Row], name: str = "batch.jsonl") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def judge(artifact: Path, source: str, settings: Settings = SETTINGS, out: str = "out") -> Any:
    drift.main(settings, ["--batch", source, "--model", str(artifact), "--out", out])
    assert {path.name for path in Path(out).iterdir()} == FILES
    verdict = json.loads(Path(out, "verdict.json").read_text(encoding="utf-8"))
    accepted, rejects = (pq.read_table(Path(out, f"{name}.parquet")) for name in ("accepted", "rejects"))
    assert (accepted.num_rows, rejects.num_rows) == (verdict["batch"]["accepted"], verdict["batch"]["refused"])
    page = Path(out, "report.html").read_text(encoding="utf-8")
    assert verdict["verdict"] in page and verdict["batch"]["id"] in page
    return verdict


def test_records_of_the_same_years_are_stable_and_accepted_as_they_are(artifact: Path) -> None:
    rows = same_years()
    verdict = judge(artifact, write(rows))
    assert verdict["verdict"] == "stable", verdict["reasons"]
    assert verdict["batch"] | {"id": ""} == {
        "id": "", "source": "batch.jsonl", "records": 150, "accepted": 150, "refused": 0, "labelled": 150,
    }  # fmt: skip
    assert verdict["batch"]["id"].startswith("batch-")
    assert len(verdict["batch"]["id"]) == len("batch-") + 12
    assert {check["kind"] for check in verdict["checks"]} == {
        "text", "vocabulary", "embedding", "score", "label", "metadata", "quality", "validity",
    }  # fmt: skip
    assert set(verdict["quality"]) == {"nDCG@5", "P@1"}
    accepted = pq.read_table("out/accepted.parquet")
    assert accepted.column_names[:6] == ["id", "text", "labels", "source_file", "source_line", "error"]
    assert accepted.column("text").to_pylist() == [row["text"] for row in rows]
    assert accepted.column("labels").to_pylist() == [row["labels"] for row in rows]
    assert accepted.column("year").to_pylist() == [row["year"] for row in rows]


def test_twice_gives_equal_bytes(artifact: Path) -> None:
    source = write(same_years())
    judge(artifact, source, out="one")
    judge(artifact, source, out="two")
    judge(artifact, source, out="two")
    for name in FILES:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name


def test_another_language_and_other_types_are_a_drift(artifact: Path) -> None:
    # Synthetic: words of no language, so that length stays and everything that reads words moves.
    table = str.maketrans("aeioubcdfg", "oiaeuvwxyz")
    rows = [row | {"text": row["text"].translate(table).upper(), "type": "Map"} for row in same_years()]
    verdict = judge(artifact, write(rows))
    assert verdict["verdict"] == "drift"
    failed = {check["name"] for check in verdict["checks"] if check["failed"]}
    assert {"unknown_word_share", "capital_share", "function_word_share", "type"} <= failed
    assert any(reason.startswith("type: Jensen-Shannon distance") for reason in verdict["reasons"])


def test_without_labels_it_says_so_and_leaves_their_checks_out(artifact: Path) -> None:
    rows = same_years()
    bare = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
    pq.write_table(pa.Table.from_pylist(bare), "bare.parquet")
    verdicts = [judge(artifact, write(bare)), judge(artifact, write([row | {"labels": []} for row in rows]))]
    verdicts.append(judge(artifact, "bare.parquet"))
    for verdict in verdicts:
        assert verdict["verdict"] == "stable"
        assert (verdict["batch"]["accepted"], verdict["batch"]["labelled"]) == (150, 0)
        assert verdict["reasons"][-1].startswith("No record has labels")
        assert not {"label", "quality"} & {check["kind"] for check in verdict["checks"]}
        assert verdict["quality"] is None


def garbage(rows: list[Row]) -> list[Row]:
    """40 of 100 records as a broken export leaves them."""
    broken = [{"text": ""}, {"labels": []}, {"text": "\ufffd\ufffd"}, {"id": None}]
    return [row | broken[n // 5 % 4] if n % 5 < 2 else row for n, row in enumerate(rows)]


POISON: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "empty": (lambda rows: [], "records: accepted records 0"),
    "too few": (lambda rows: rows[:20], "records: accepted records 20"),
    "garbage": (garbage, "refused: share of records 0.4"),
    "ten times longer": (lambda rows: [r | {"text": " ".join([r["text"]] * 10)} for r in rows], "length: ratio"),
    "a tenth as long": (lambda rows: [r | {"text": r["text"][: len(r["text"]) // 10]} for r in rows], "length: ratio"),
    "unknown labels": (
        lambda rows: [r | {"labels": [f"x{label}" for label in r["labels"]]} for r in rows],
        "unknown_labels: share of label uses 1",
    ),
    "repeated": (lambda rows: [r | {"text": rows[n % 9]["text"]} for n, r in enumerate(rows)], "repeated: share"),
    "damaged": (lambda rows: [r | {"text": r["text"] + " MÃ¼ller"} for r in rows], "damaged: share of texts 1"),
    "no text": (
        lambda rows: [{"id": r["id"], "body": r["text"], "labels": r["labels"]} for r in rows],
        "No record has",
    ),
    "other columns": (lambda rows: [{"foo": 1, "bar": r["text"]} for r in rows], "No record has a 'text'"),
}


@pytest.mark.parametrize("kind", POISON)
def test_a_poisoned_batch_is_quarantined(artifact: Path, kind: str) -> None:
    poison, reason = POISON[kind]
    verdict = judge(artifact, write(poison(same_years())))
    assert verdict["verdict"] == "quarantined"
    assert any(said.startswith(reason) for said in verdict["reasons"]), verdict["reasons"]
    assert verdict["quality"] is None
    assert {check["kind"] for check in verdict["checks"]} == {"validity"}


def test_what_was_refused_is_kept_with_its_reason(artifact: Path) -> None:
    judge(artifact, write(garbage(same_years())))
    rejects = pq.read_table("out/rejects.parquet")
    assert set(rejects.column("reason").to_pylist()) == {
        "text_missing", "labels_missing", "text_only_damage", "id_missing",
    }  # fmt: skip


def test_lines_that_are_no_records_are_quarantined(artifact: Path) -> None:
    Path("noise.jsonl").write_bytes(bytes(range(1, 256)) * 50)
    assert judge(artifact, "noise.jsonl")["verdict"] == "quarantined"


@pytest.mark.parametrize("name", ["batch.csv", "batch.parquet"])
def test_a_table_with_other_columns_is_quarantined(artifact: Path, name: str) -> None:
    if name.endswith("csv"):
        Path(name).write_text("foo,bar\n1,2\n", encoding="utf-8")
    else:
        pq.write_table(pa.table({"foo": [1], "bar": ["x"]}), name)
    verdict = judge(artifact, name)
    assert verdict["verdict"] == "quarantined"
    assert "has no column 'id'" in verdict["reasons"][0]
    # Two such batches are told apart.
    other = judge(artifact, write([], "batch.jsonl"))
    assert other["batch"]["id"] != verdict["batch"]["id"]


def test_all_files_of_a_folder_are_the_batch_whatever_split_they_name(artifact: Path) -> None:
    rows = same_years()
    write(rows[:50], "late/train.jsonl")
    with lzma.open(Path("late/test.jsonl.xz"), "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows[50:120]))
    pq.write_table(pa.Table.from_pylist(rows[120:]), "late/more.parquet")
    Path("late/README.md").write_text("about")
    Path("late/label_texts.json").write_text("{}")
    verdict = judge(artifact, "late")
    assert verdict["batch"]["records"] == 150
    assert verdict["batch"]["id"].startswith("late-")
    accepted = pq.read_table("out/accepted.parquet")
    assert set(accepted.column("id").to_pylist()) == {row["id"] for row in rows}


def test_a_batch_comes_from_s3(artifact: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in s3_server.environment.items():
        monkeypatch.setenv(key, value)
    rows, bucket, client = same_years(), s3_server.make_bucket(), s3_server.client()
    for n, part in enumerate((rows[:70], rows[70:])):
        body = "".join(json.dumps(row) + "\n" for row in part).encode()
        client.put_object(Bucket=bucket, Key=f"incoming/2024/part-{n}.jsonl", Body=body)
    verdict = judge(artifact, f"s3://{bucket}/incoming/2024/")
    assert verdict["verdict"] == "stable"
    assert verdict["batch"]["records"] == 150
    assert verdict["batch"]["id"].startswith("2024-")


@pytest.mark.parametrize("kind", ["missing", "cut short", "no parquet", "no format"])
def test_a_source_that_cannot_be_read_is_an_error_and_leaves_the_old_report(artifact: Path, kind: str) -> None:
    before = judge(artifact, write(same_years()))
    if kind == "cut short":
        content = lzma.compress("".join(json.dumps(row) + "\n" for row in same_years()).encode())
        Path("batch.jsonl.xz").write_bytes(content[: len(content) // 2])
    elif kind == "no parquet":
        Path("batch.parquet").write_bytes(b"PAR1 not really")
    elif kind == "no format":
        Path("batch.pdf").write_bytes(b"%PDF")
    name = {"missing": "nowhere.jsonl", "cut short": "batch.jsonl.xz", "no parquet": "batch.parquet"}.get(
        kind, "batch.pdf"
    )
    with pytest.raises(DataError, match=name):
        drift.main(SETTINGS, ["--batch", name, "--model", str(artifact), "--out", "out"])
    assert json.loads(Path("out/verdict.json").read_text()) == before


def test_an_artifact_without_a_reference_is_refused(artifact: Path) -> None:
    with pytest.raises(DataError, match="carries no reference"):
        judge(artifact.parent / "artifact", write(same_years()))
    assert not Path("out").exists()


def test_as_a_process_with_evidently_and_no_network(artifact: Path, repo_root: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "data" / "models" / "artifact")
    source = write(same_years(), "incoming.jsonl")
    knobs = "{batch: incoming.jsonl, max_unseen_share: 0.95, min_quality_share: 0, report_rows: 100}"
    Path("params.yaml").write_text(params_yaml(f"drift: {knobs}"))
    watched = (
        "import os, runpy, sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname'):\n"
        "        print('network:', event, arguments, file=sys.stderr, flush=True)\n"
        "        os._exit(99)\n"
        "sys.addaudithook(watch)\n"
        "runpy.run_module('stages.drift', run_name='__main__', alter_sys=True)\n"
    )
    environment = {"PYTHONPATH": str(repo_root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", watched, *flags]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "data" / "reports" / "drift"
    assert {path.name for path in folder.iterdir()} == FILES
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(page) > 1_000_000 and "<h1>Batch incoming-" in page
    names = json.dumps(json.loads((folder / "report.json").read_text(encoding="utf-8"))["evidently"])
    assert all(f"column={name}," in names for name in ("characters", "top_probability", "type", "nDCG@5"))

    Path(source).unlink()
    failed = run("--out", "elsewhere")
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("error: incoming.jsonl does not exist")
    assert not Path("elsewhere").exists()
