"""An exported model in a registry on a real S3 server: published, pulled and used like any other."""

import json
from pathlib import Path

import pytest

from cascadexml import Predictor
from cascadexml.artifact import open_artifact
from cascadexml.bundle import MANIFEST
from cascadexml.registry import Registry
from tests.conftest import S3Server, sample_records
from tests.support.command_line import cascadexml
from tests.support.tiny_artifacts import pack_tiny_blend

pytestmark = pytest.mark.integration


@pytest.fixture
def registry(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CASCADEXML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CASCADEXML_VERIFY_KEY", raising=False)
    return Registry(f"s3://{s3_server.make_bucket()}/models")


def test_the_champion_is_exported_published_and_predicts(
    registry: Registry, small_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = registry.publish(pack_tiny_blend(tmp_path / "made", small_corpus), "tiny")
    registry.promote("tiny", original.version, "champion", reason="first")
    monkeypatch.setenv("CASCADEXML_REGISTRY", registry.uri)
    champion = f"{registry.uri}/tiny@champion"
    ended = cascadexml("export", champion, tmp_path / "int8", "--int8")
    assert ended.exit_code == 0, ended.stderr
    exported = open_artifact(tmp_path / "int8")
    assert exported.meta["exported"]["artifact"] == original.fingerprint

    published = cascadexml("registry", "publish", tmp_path / "int8", "--name", "tiny", "--json")
    version = json.loads(published.stdout)["version"]
    assert version != original.version
    registry.promote("tiny", version, "champion", reason="faster")
    pulled = registry.pull("tiny", "champion")
    assert (pulled / MANIFEST).read_bytes() == (tmp_path / "int8" / MANIFEST).read_bytes()
    texts = [record["text"] for record in sample_records("test", 20)]
    here, there = (Predictor.load(place, "cpu").rank(texts, 5) for place in (tmp_path / "int8", champion))
    assert (here.labels == there.labels).all() and (here.scores == there.scores).all()

    (tmp_path / "texts").write_text("".join(f"{text}\n" for text in texts[:3]), encoding="utf-8")
    said = cascadexml("predict", champion, "--input", tmp_path / "texts", "--format", "text", "--explain")
    assert said.exit_code == 0 and len(said.stdout.splitlines()) == 3
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(each) + "\n" for each in sample_records("dev", 20)), encoding="utf-8")
    evaluated = cascadexml("evaluate", champion, "--data", records, "--json")
    assert evaluated.exit_code == 0 and "P@1" in evaluated.stdout

    refused = cascadexml("export", champion, tmp_path / "again")
    assert refused.exit_code == 1 and "was exported already" in refused.stderr
    assert original.version in {each.version for each in registry.versions("tiny")}
