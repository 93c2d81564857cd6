"""Stages as dvc.yaml starts them: their exit code and the one line on what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import sample_records
from tests.support.params import params_yaml

pytestmark = pytest.mark.integration


def run(stage: str, folder: Path, repo_root: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(repo_root)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("stage", ["download", "train"])
def test_a_wrong_key_of_another_section_is_refused_before_any_work(stage: str, repo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {epoch: 3}\n")
    refused = run(stage, tmp_path, repo_root)
    assert refused.returncode == 1
    assert refused.stderr == "error: params.yaml: unknown key train.epoch; the nearest known one is train.epochs.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_download_tells_what_it_read_and_one_that_fails_why(repo_root: Path, tmp_path: Path) -> None:
    project, params = tmp_path / "project", tmp_path / "project" / "params.yaml"
    project.mkdir()
    params.write_text(params_yaml("download: {source: no-such-folder}"))
    failed = run("download", project, repo_root)
    assert failed.returncode == 1
    assert failed.stderr.strip() == (
        "error: no-such-folder does not exist: set download.source to a file, a folder, http(s):// or s3://."
    )
    records = sample_records("train", 20)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    params.write_text(params_yaml(f"download: {{source: '{tmp_path}/train.jsonl', limit: 10}}"))
    done = run("download", project, repo_root)
    assert done.returncode == 0, done.stderr
    assert "train 10, dev 2, test 2" in done.stderr


def test_a_malformed_endpoint_is_told_in_one_line(tmp_path: Path, repo_root: Path) -> None:
    (tmp_path / "params.yaml").write_text(params_yaml("download: {source: s3://bucket/x}"))
    done = run("download", tmp_path, repo_root, AWS_ENDPOINT_URL="http://me:secret@127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: s3://bucket/x cannot be listed: the endpoint holds")
    assert "Traceback" not in done.stderr and "secret" not in done.stderr + done.stdout
