"""The command line as a process: pipes, signals, and an environment with the core only."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cascadexml.data.corpus import Corpus
from tests.support.tiny_artifacts import pack_tiny

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return pack_tiny(tmp_path_factory.mktemp("command_line"), small_corpus)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cascadexml", *(str(argument) for argument in arguments)]


def start(repo_root: Path, *arguments: object) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(*arguments),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        cwd=repo_root,
        preexec_fn=_as_at_a_terminal,
    )


def _as_at_a_terminal() -> None:
    # A shell that runs the tests in the background has its children ignore interrupts, and they pass that on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_pipe_is_answered_line_by_line(artifact: Path, repo_root: Path) -> None:
    with start(repo_root, "predict", artifact, "--batch-size", 1, "--device", "cpu") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, text in enumerate(["water", "oil", '{"id": "x", "text": "gas"}'], start=1):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer.get("id", answer.get("line")) == ("x" if number == 3 else number)
        process.stdin.close()
        assert process.wait() == 0


def test_a_reader_that_leaves_is_no_failure(artifact: Path, repo_root: Path, tmp_path: Path) -> None:
    source = tmp_path / "many.txt"
    source.write_text("some text about water\n" * 20_000)
    with start(repo_root, "predict", artifact, "--input", source, "--device", "cpu") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["line"] == 1
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_an_interrupt_leaves_no_output_behind(artifact: Path, repo_root: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "answers.jsonl"
    with start(repo_root, "predict", artifact, "--batch-size", 1, "--output", target, "--device", "cpu") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("water\n")
        process.stdin.flush()
        while not any(file.stat().st_size for file in tmp_path.rglob("answers.jsonl")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == ""
    assert list(tmp_path.rglob("*")) == [target.parent]


def test_errors_have_no_traceback(repo_root: Path, tmp_path: Path) -> None:
    done = subprocess.run(command("info", tmp_path), capture_output=True, text=True, cwd=repo_root)
    assert done.returncode == 1
    assert done.stderr.startswith("cascadexml: error: ")
    assert done.stderr.count("\n") == 1


def test_help_and_info_do_not_wait_for_torch(artifact: Path, repo_root: Path) -> None:
    code = """
import sys
from cascadexml.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
sys.exit("torch" in sys.modules)
"""
    for arguments in (["--help"], ["predict", "--help"], ["info", str(artifact)]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, cwd=repo_root)
        assert done.returncode == 0


def test_loading_and_predicting_needs_only_the_core(artifact: Path, repo_root: Path) -> None:
    code = """
import sys
for name in sys.argv[2].split():
    sys.modules[name] = None  # as if it were not installed
from cascadexml import Predictor
print(len(Predictor.load(sys.argv[1], device="cpu").predict("water", top_k=3)))
"""
    pipeline = "sklearn dvc dvclive great_expectations pandas boto3 matplotlib requests psutil ruamel prefect"
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact), pipeline], capture_output=True, text=True, cwd=repo_root
    )
    assert done.stdout == "3\n", done.stderr
