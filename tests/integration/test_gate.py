"""The promotion gate through the pipeline flow itself: real judging, real registry, models that were really trained.

The project has no stages: what training would have left is put there, a model that learned or one that hardly did.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect.testing.utilities import prefect_test_harness

from cascadexml.data.corpus import Corpus
from cascadexml.registry import Registry
from flows import tasks
from flows.pipeline import pipeline
from tests.conftest import REPO, S3Server, sample_records
from tests.support.params import params_yaml
from tests.support.tiny_artifacts import pack_again, tiny_metrics
from tests.support.tiny_runs import prepare, train

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NAME = "gate"
PARAMS = f"""
package: {{name: {NAME}}}
evaluate: {{ks: [1, 5], top_k: 30, bootstrap_samples: 200}}
judge: {{min_slice: 50}}
train: {{device: cpu}}
"""


@dataclass(frozen=True)
class Trained:
    """A project without stages, and two artifacts of its corpus."""

    project: Path
    good: Path
    poor: Path


@dataclass(frozen=True)
class Gate:
    """The project with a registry of its own."""

    trained: Trained
    registry: Registry

    def run(self, challenger: Path) -> dict[str, Any]:
        """Run the pipeline flow where training has left `challenger`; give what it returns."""
        artifact = self.trained.project / tasks.ARTIFACT
        artifact.unlink(missing_ok=True)
        artifact.symlink_to(challenger)
        outcome: dict[str, Any] = pipeline(project=str(self.trained.project))
        published = self.trained.project / "data" / "reports" / "published.json"
        assert json.loads(published.read_text(encoding="utf-8")) == outcome
        return outcome

    def judgements(self, outcome: dict[str, Any]) -> list[dict[str, Any]]:
        """The records of the judgements of a version against a champion."""
        keys = self._keys(outcome)
        return [json.loads(self.registry.read_record(NAME, "judgements", key)) for key in keys]

    def kept_judgement(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """The one judgement of a version against a champion, in full."""
        (key,) = self._keys(outcome)
        found: dict[str, Any] = json.loads(self.registry.read_record(NAME, "judgements", key, "judgement.json"))
        assert found["promote"] == outcome["promoted"]
        return found

    def _keys(self, outcome: dict[str, Any]) -> list[str]:
        start = f"{outcome['version']}-against-{outcome['against'] or 'none'}-"
        return [key for key in self.registry.records(NAME, "judgements") if key.startswith(start)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Tiny models learn little that holds elsewhere, so test is of records of train: what is tested is the gate."""
    folder = tmp_path_factory.mktemp("gate")
    records = sample_records("train", 300)
    tables = {"train": records, "dev": sample_records("dev", 60), "test": records[:150]}
    corpus = Corpus.from_records({name: pa.Table.from_pylist(rows) for name, rows in tables.items()}, {})
    prepare(folder, corpus)
    for name, epochs, start in (("poor", 0.5, "xavier"), ("good", 12.0, "centroid")):
        (folder / name).mkdir()
        train(folder, folder / name / "model", epochs=epochs, head_init=start, warmup_epochs=0.1)
        shutil.copytree(folder / "encoder", folder / name / "encoder")
        pack_again(folder / name / "artifact", folder / name, corpus, ranker=folder / name / "model")
    project = folder / "project"
    for below in ("interim", "models", "reports"):
        (project / "data" / below).mkdir(parents=True)
    (project / "stages").symlink_to(REPO / "stages")
    (project / "params.yaml").write_text(params_yaml(PARAMS), encoding="utf-8")
    (project / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    metrics = json.dumps(tiny_metrics().to_json())
    (project / "data" / "reports" / "metrics.json").write_text(metrics, encoding="utf-8")
    corpus.save(project / "data" / "interim" / "corpus")
    return Trained(project, folder / "good" / "artifact", folder / "poor" / "artifact")


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the tests' own, on a database that goes with them."""
    with ExitStack() as stack:
        stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        yield


@pytest.fixture
def gate(
    trained: Trained, prefect_server: None, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Gate:
    uri = f"s3://{s3_server.make_bucket()}/models"
    here = {"CASCADEXML_REGISTRY": uri, "CASCADEXML_CACHE": str(tmp_path / "cache")}
    for key, value in (s3_server.environment | here).items():
        monkeypatch.setenv(key, value)
    return Gate(trained, Registry(uri))


def test_only_the_better_model_takes_the_champions_place(gate: Gate) -> None:
    first = gate.run(gate.trained.poor)
    assert (first["promoted"], first["against"]) == (True, None)
    assert gate.registry.aliases(NAME) == {"champion": first["version"], "challenger": first["version"]}

    better = gate.run(gate.trained.good)
    assert (better["promoted"], better["against"]) == (True, first["version"])
    assert gate.registry.aliases(NAME) == {"champion": better["version"], "challenger": better["version"]}
    moves = gate.registry.history(NAME, "champion")
    assert [move.target for move in moves] == [first["version"], better["version"]]
    assert moves[-1].reason == " ".join(better["reasons"])
    assert better in gate.judgements(better)

    worse = gate.run(gate.trained.poor)
    assert (worse["version"], worse["promoted"], worse["against"]) == (first["version"], False, better["version"])
    assert gate.registry.aliases(NAME) == {"champion": better["version"], "challenger": worse["version"]}
    assert gate.registry.history(NAME, "champion") == moves
    assert worse in gate.judgements(worse)
    assert gate.kept_judgement(worse)["difference"]["high"] < 0
