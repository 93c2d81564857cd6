import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascadexml import Predictor
from cascadexml.artifact import Origin, open_artifact
from cascadexml.cli import main
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.choices import PRECISIONS, Choices
from cascadexml.evaluation.thresholds import NEVER
from tests.conftest import sample_records
from tests.support.command_line import cascadexml
from tests.support.tiny_artifacts import pack_again, pack_tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return pack_tiny(tmp_path_factory.mktemp("cli"), small_corpus)


@pytest.fixture(scope="module")
def predictor(artifact: Path) -> Predictor:
    return Predictor.load(artifact, device="cpu")


@pytest.fixture
def run() -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        ended = cascadexml(*arguments)
        return ended.exit_code, ended.stdout, ended.stderr

    return call


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_predict_answers_each_line_like_the_library(
    run: Run, artifact: Path, predictor: Predictor, tmp_path: Path
) -> None:
    source = tmp_path / "lines.txt"
    records = sample_records("test", 3)
    lines = [records[0]["text"], json.dumps(records[1]), "", json.dumps({"id": 7, "text": records[2]["text"]})]
    source.write_text("\n".join(lines), encoding="utf-8-sig")
    code, out, err = run("predict", artifact, "--input", source, "--top-k", 3, "--device", "cpu")
    assert (code, err) == (0, "")
    answers = lines_of(out)
    assert [answer.get("id", answer.get("line")) for answer in answers] == [1, records[1]["id"], 3, 7]
    expected = predictor.predict([records[0]["text"], records[1]["text"], "", records[2]["text"]], top_k=3)
    for answer, predictions in zip(answers, expected, strict=True):
        assert [(p["id"], p["name"]) for p in answer["predictions"]] == [(p.id, p.name) for p in predictions]
        shown = [p["probability"] for p in answer["predictions"]]
        assert np.allclose(shown, [p.probability for p in predictions], rtol=0, atol=1e-5)


def test_predict_writes_a_file_that_appears_whole(run: Run, artifact: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "a", "text": "Wasser und Öl"}\r\n{"id": "b", "text": "oil"}\r\n', encoding="utf-8")
    assert run("predict", artifact, "--input", source, "--output", target)[:2] == (0, "")
    answers = lines_of(target.read_text(encoding="utf-8"))
    assert [answer["id"] for answer in answers] == ["a", "b"]
    with source.open("a") as file:
        file.write("{broken\n")
    assert run("predict", artifact, "--input", source, "--output", target)[0] == 1
    assert lines_of(target.read_text(encoding="utf-8")) == answers
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    assert run("predict", artifact, "--input", source, "--output", "/dev/null", "--keep-going")[:2] == (0, "")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_predict_reads_compressed_files(
    run: Run, artifact: Path, tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    source = tmp_path / f"lines.txt{suffix}"
    source.write_bytes(compress(b"water\noil\n"))
    code, out, _ = run("predict", artifact, "--input", source)
    assert (code, len(lines_of(out))) == (0, 2)
    source.write_bytes(compress(b"water\noil\n")[:-6])
    code, _, err = run("predict", artifact, "--input", source)
    assert code == 1
    assert "cannot be decompressed" in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{not json", "line 2: not JSON"),
        (b'{"title": "no text"}', 'line 2: not a JSON object whose "text" is a string'),
        (b'{"text": 3}', 'line 2: not a JSON object whose "text" is a string'),
        (b'{"text": null}', 'line 2: not a JSON object whose "text" is a string'),
        (b'{"text": "a", "id": [1e999]}', 'line 2: its "id" holds a number that JSON has not'),
        (b"caf\xe9", "line 2: byte 4 is not UTF-8"),
        (b'{"a":' * 100_000, "line 2: "),
    ],
)
def test_a_bad_line_is_named(run: Run, artifact: Path, tmp_path: Path, line: bytes, says: str) -> None:
    source = tmp_path / "lines.txt"
    source.write_bytes(b"water\n" + line + b"\noil\n")
    code, out, stopped = run("predict", artifact, "--input", source)
    assert code == 1
    assert says in stopped
    assert stopped.count("\n") == 1
    assert [answer["line"] for answer in lines_of(out)] == [1]
    code, out, err = run("predict", artifact, "--input", source, "--keep-going")
    assert (code, err) == (0, "")
    before, bad, after = lines_of(out)
    assert bad.keys() == {"line", "error"}
    assert bad["line"] == 2
    # What stops the one run is what the other writes: one reason, without the file's name and line.
    assert bad["error"] in stopped
    assert bad["error"].startswith(says.removeprefix("line 2: "))
    assert "line 2" not in bad["error"]
    assert len(before["predictions"]) == len(after["predictions"]) == 5


def test_numbers_beyond_all_sense_are_refused_or_cut(run: Run, artifact: Path, tmp_path: Path) -> None:
    source = tmp_path / "lines.txt"
    source.write_text('{"text": "water", "id": 9223372036854775808}\n')
    code, out, _ = run("predict", artifact, "--input", source, "--top-k", 2**63)
    assert code == 0
    (answer,) = lines_of(out)
    assert answer["id"] == 2**63
    assert len(answer["predictions"]) > 5
    code, _, err = run("predict", artifact, "--input", source, "--batch-size", 2**63)
    assert code == 2
    assert "65536" in err


def test_formats_other_than_auto(run: Run, artifact: Path, tmp_path: Path) -> None:
    source = tmp_path / "lines.txt"
    source.write_text("{\\bf Water}\n")
    assert run("predict", artifact, "--input", source)[0] == 1
    assert len(lines_of(run("predict", artifact, "--input", source, "--format", "text")[1])) == 1
    source.write_text("water\n")
    assert "not JSON" in run("predict", artifact, "--input", source, "--format", "jsonl")[2]


def test_thresholds(run: Run, artifact: Path, predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "lines.txt"
    source.write_text("water\n")

    def probabilities(*arguments: object) -> list[float]:
        (answer,) = lines_of(run("predict", artifact, "--input", source, "--top-k", 100, *arguments)[1])
        return [p["probability"] for p in answer["predictions"]]

    every = probabilities()
    cut = (every[3] + every[4]) / 2
    assert probabilities("--threshold", cut) == every[:4]
    assert probabilities("--threshold", "tuned") == [p for p in every if p >= predictor.threshold]


def test_choices_by_precision(
    run: Run, artifact: Path, small_corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    low, high = (0.1,) * len(PRECISIONS), (0.6,) * 3 + (NEVER,) * (len(PRECISIONS) - 3)
    choices = Choices(3, 10, 0.55, {"head": high, "torso": high, "tail": low})
    calibration = replace(open_artifact(artifact).calibration(), choices=choices)
    pack_again(tmp_path / "model", artifact.parent, small_corpus, calibration=calibration)
    predictor = Predictor.load(tmp_path / "model", "cpu")
    source = tmp_path / "lines.txt"
    source.write_text("water\n")

    def told(*arguments: object) -> list[str]:
        code, out, _ = run("predict", tmp_path / "model", "--input", source, "--top-k", 100, *arguments)
        assert code == 0
        return [p["id"] for p in lines_of(out)[0]["predictions"]]

    for arguments, asked in (
        (("--min-precision", 0.6), {"min_precision": 0.6}),
        (("--threshold", "macro"), {"threshold": "macro"}),
        (("--threshold", 0.65, "--min-precision", 0.5), {"threshold": 0.65, "min_precision": 0.5}),
    ):
        expected = [p.id for p in predictor.predict("water", 100, **asked)]  # type: ignore[arg-type]
        assert told(*arguments) == expected
        assert 0 < len(expected) < 100
    assert not caplog.messages
    told("--min-precision", 0.8)
    assert "not reached on dev by head and torso labels: none of them are given" in caplog.text
    code, out, err = run("predict", tmp_path / "model", "--input", source, "--min-precision", 0.99)
    assert (code, out) == (1, "")
    assert "0.99 was not reached on dev by labels of any band: ask for at most 0.95" in err
    code, _, err = run("predict", artifact, "--input", source, "--min-precision", 0.8)
    assert code == 1
    assert "trained without a dev split" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["predict"],
        ["registry"],
        ["registry", "nonsense"],
        ["registry", "promote", "NAME", "VERSION"],
        ["registry", "gc", "--older-than", "soon"],
        ["registry", "gc", "--keep", "-1"],
        ["predict", "PATH", "--top-k", "0"],
        ["predict", "PATH", "--top-k", "many"],
        ["predict", "PATH", "--threshold", "1.5"],
        ["predict", "PATH", "--threshold", "nan"],
        ["predict", "PATH", "--min-precision", "0"],
        ["predict", "PATH", "--min-precision", "80"],
        ["predict", "PATH", "--min-precision", "nan"],
        ["predict", "PATH", "--batch-size", "-1"],
        ["evaluate", "PATH"],
        ["info", "PATH", "--nonsense"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: cascadexml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["predict", "--help"],
        ["evaluate", "--help"],
        ["info", "--help"],
        ["registry", "-h"],
        ["registry", "gc", "-h"],
    ],
)
def test_help(run: Run, arguments: list[str]) -> None:
    code, out, _ = run(*arguments)
    assert code == 0
    assert out.startswith("Usage: cascadexml")
    assert len(arguments) == 1 or "examples:\n  " in out


def test_version_and_entry_point(run: Run) -> None:
    from cascadexml import __version__

    assert run("--version")[:2] == (0, f"cascadexml {__version__}\n")
    (script,) = entry_points(group="console_scripts", name="cascadexml")
    assert script.load() is main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "NOWHERE"], "holds no manifest.json"),
        (["info", "http://host/model"], "is no place for artifacts"),
        (["predict", "PATH", "--input", "NOWHERE"], "No such file"),
        (["predict", "PATH", "--input", "PATH"], "Is a directory"),
        (["predict", "PATH", "--input", "FILE", "--device", "cuda:99"], "is not on this machine"),
        (["predict", "PATH", "--input", "FILE", "--explain"], "which cannot explain"),
        (["evaluate", "PATH", "--data", "NOWHERE"], "is not a file"),
        (["evaluate", "PATH", "--data", "FILE"], "lines.jsonl"),
    ],
)
def test_a_failure_is_exit_code_1_and_one_line(
    run: Run, artifact: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "lines.jsonl").write_text('{"text": "no labels", "labels": []}\n')
    places = {"PATH": artifact, "FILE": tmp_path / "lines.jsonl", "NOWHERE": tmp_path / "nowhere"}
    code, out, err = run(*(places.get(argument, argument) for argument in arguments))
    assert (code, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("cascadexml: error: ")


def test_info(run: Run, artifact: Path, small_corpus: Corpus) -> None:
    code, out, _ = run("info", artifact)
    assert code == 0
    L = small_corpus.vocabulary.L
    for told in (
        "tiny",
        str(L),
        "bert, 2 layers of 32",
        "CC-BY-SA-4.0",
        "P@1 0.4321",
        "train 300",
        '"encoder_lr"',
        "MiB",
    ):
        assert told in out
    found = json.loads(run("info", artifact, "--json")[1])
    assert found["labels"] == L
    assert found["fingerprint"] == open_artifact(artifact).fingerprint
    assert found["metrics"]["nDCG@5"] == 0.5


def test_info_says_what_was_not_stated(run: Run, artifact: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    package = {"name": "own", "data": None, "data_licence": None, "intended_use": None, "limits": None}
    origin = Origin(name="own", params={"package": package})
    pack_again(tmp_path / "own", artifact.parent, small_corpus, origin=origin)
    code, out, _ = run("info", tmp_path / "own")
    assert code == 0
    for told in ("data           not stated", "data licence   not stated"):
        assert told in out.splitlines()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Path:
    """Real records of which many have labels that the model does not know, and two that cannot be used.

    Every second one is also given two labels that the model, which has random weights, ranks high: else nothing is hit.
    """
    path = tmp_path_factory.mktemp("labelled") / "records.jsonl"
    lines = []
    records = sample_records("test", 40)
    ranked = predictor.predict([record["text"] for record in records], top_k=9)
    for n, (record, found) in enumerate(zip(records, ranked, strict=True)):
        given = {found[0].id, found[8].id} if n % 2 else set()
        lines.append(json.dumps({"text": record["text"], "labels": sorted(given | set(record["labels"]))}))
    path.write_text("\n".join([*lines, '{"text": "no labels", "labels": []}', "{broken"]) + "\n")
    return path


def test_evaluate_equals_precision_and_recall_counted_by_hand(
    run: Run, artifact: Path, predictor: Predictor, labelled: Path
) -> None:
    code, out, _ = run("evaluate", artifact, "--data", labelled, "--json")
    assert code == 0
    figures = json.loads(out)
    records = [json.loads(line) for line in labelled.read_text().splitlines()[:40]]
    hits, recalls = [], []
    for record, found in zip(records, predictor.predict([r["text"] for r in records], top_k=20), strict=True):
        right = len({p.id for p in found} & set(record["labels"]))
        hits.append(right / 20)
        recalls.append(right / len(set(record["labels"])))
    assert np.isclose(figures["figures"]["P@20"], np.mean(hits), atol=1e-9)
    assert np.isclose(figures["figures"]["R@20"], np.mean(recalls), atol=1e-9)
    assert figures["documents"] == {"evaluated": 40, "left_out": 2}
    known = set(predictor.vocabulary.ids[: predictor.vocabulary.L])
    unknown = {label for record in records for label in record["labels"]} - known
    assert figures["labels"]["unknown"] == len(unknown) > 0
    code, out, _ = run("evaluate", artifact, "--data", labelled)
    assert code == 0
    assert f"{len(unknown)} of the documents' labels unknown" in out
    assert f"{100 * np.mean(recalls):.2f}" in out


def test_label_counts_beyond_the_documents_are_one_sentence(
    artifact: Path, small_corpus: Corpus, labelled: Path, tmp_path: Path
) -> None:
    """In a process of its own: SciPy may crash on such a matrix."""
    counts = open_artifact(artifact).label_counts()
    counts[3] = 10**7
    pack_again(tmp_path / "odd", artifact.parent, small_corpus, label_counts=counts)
    command = [sys.executable, "-m", "cascadexml", "evaluate", tmp_path / "odd", "--data", labelled, "--device", "cpu"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "odd/label_counts.npy does not fit its model (counts from" in ended.stderr
    assert "Traceback" not in ended.stderr
