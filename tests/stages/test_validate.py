"""The validate stage where it stops before any expectation is checked; the rest is in tests/integration."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stages
from stages import validate
from tests.support.params import params_yaml


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text(params_yaml())
    (tmp_path / "data" / "raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_missing_records_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        stages.run(validate.main)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: data/raw/train.parquet cannot be read")
    assert "dvc repro download" in error


def test_records_of_another_schema_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Synthetic: no reader writes such a table.
    for split in ("train", "dev", "test"):
        pq.write_table(pa.table({"id": ["a"]}), project / "data" / "raw" / f"{split}.parquet")
    pq.write_table(pa.table({"id": ["x"], "name": ["ex"]}), project / "data" / "raw" / "labels.parquet")
    with pytest.raises(SystemExit) as stop:
        stages.run(validate.main)
    assert stop.value.code == 1
    assert "raw records of train have no column 'text'" in capsys.readouterr().err
    assert not (project / "data" / "interim").exists()
