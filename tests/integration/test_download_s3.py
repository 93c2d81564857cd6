"""Fetching from a real S3 server (SeaweedFS), and what is said where there is none.

Credentials come from boto3's own chain.
"""

import hashlib
import json
import logging
import lzma
import os
import re
import subprocess
import sys
import zipfile

import pyarrow.parquet as pq
import pytest

from cascadexml.config import RegistrySettings
from cascadexml.errors import DataError, RegistryError
from cascadexml.storage.fetch import fetch
from cascadexml.storage.object_store import ObjectStore
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.params import params_yaml

pytestmark = pytest.mark.integration


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket()


def files_of(folder) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_one_object(s3_server, bucket, tmp_path):
    content = os.urandom(9_000_000)
    s3_server.client().put_object(Bucket=bucket, Key="a b/train.jsonl", Body=content)
    path = fetch(f"s3://{bucket}/a b/train.jsonl", tmp_path, hashlib.sha256(content).hexdigest())
    assert path.name == "train.jsonl"
    assert path.read_bytes() == content
    inode = path.stat().st_ino
    assert fetch(f"s3://{bucket}/a b/train.jsonl", tmp_path).stat().st_ino == inode
    s3_server.client().put_object(Bucket=bucket, Key="a b/train.jsonl", Body=b"new")
    assert fetch(f"s3://{bucket}/a b/train.jsonl", tmp_path).read_bytes() == b"new"


@pytest.mark.parametrize("ending", ["", "/"])
def test_all_below_a_prefix_and_nothing_else(s3_server, bucket, tmp_path, ending):
    client = s3_server.client()
    for key in ("data/train.jsonl", "data/test.jsonl", "data/incoming/x.jsonl", "data2/dev.jsonl", "dev.jsonl"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    folder = fetch(f"s3://{bucket}/data{ending}", tmp_path)
    wanted = {name: f"data/{name}".encode() for name in ("train.jsonl", "test.jsonl", "incoming/x.jsonl")}
    assert files_of(folder) == wanted
    client.delete_object(Bucket=bucket, Key="data/test.jsonl")
    del wanted["test.jsonl"]
    assert files_of(fetch(f"s3://{bucket}/data{ending}", tmp_path)) == wanted


def test_an_archive_in_a_bucket(s3_server, bucket, tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("train.jsonl", "{}")
    s3_server.client().upload_file(str(tmp_path / "in.zip"), bucket, "in.zip")
    assert files_of(fetch(f"s3://{bucket}/in.zip", tmp_path / "out")) == {"train.jsonl": b"{}"}


def test_what_is_not_there_or_not_allowed_is_refused(s3_server, bucket, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="neither an object nor a prefix"):
        fetch(f"s3://{bucket}/nothing", tmp_path)
    with pytest.raises(DataError, match="cannot be listed"):
        fetch("s3://no-such-bucket/x", tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(DataError, match="cannot be listed") as caught:
        fetch(f"s3://{bucket}/x", tmp_path)
    assert s3_server.secret_key not in str(caught.value)


def test_a_broken_connection_is_resumed(s3_server, bucket, tmp_path, monkeypatch, caplog):
    content = os.urandom(8_000_000)
    s3_server.client().put_object(Bucket=bucket, Key="train.jsonl", Body=content)
    ranged = r"train\.jsonl$"
    with fault_proxy(s3_server.endpoint) as proxy:
        proxy.break_with(
            Fault("truncate", "GET", ranged, at=3_000_000), Fault("reset inside", "GET", ranged, skip=1, at=3_000_000)
        )
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert fetch(f"s3://{bucket}/train.jsonl", tmp_path).read_bytes() == content
    asked = [int(found[1]) for r in proxy.log if (found := re.match(r"bytes=(\d+)-", r.headers.get("range", "")))]
    broken_at = [record.args[1] for record in caplog.records if "broke off" in record.message]
    # The reset may take with it what the second connection brought, so the second break can be at the same byte.
    assert len(broken_at) == 2
    assert asked == broken_at
    assert 0 < broken_at[0] <= broken_at[1]


def test_the_stage_reads_a_bucket(s3_server, bucket, repo_root, sample_dir, tmp_path):
    with lzma.open(sample_dir / "train.jsonl.xz") as lines:
        content = b"".join(next(lines) for _ in range(200))
    s3_server.client().put_object(Bucket=bucket, Key="mine/train.jsonl.xz", Body=lzma.compress(content))
    (tmp_path / "params.yaml").write_text(params_yaml(f"download: {{source: s3://{bucket}/mine}}"))
    environment = os.environ | s3_server.environment | {"PYTHONPATH": str(repo_root)}
    command = [sys.executable, "-m", "stages.download"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    raw = tmp_path / "data" / "raw"
    assert sum(pq.read_metadata(raw / f"{name}.parquet").num_rows for name in ("train", "dev", "test")) == 200
    source = json.loads((raw / "source.json").read_text())
    assert source["source"] == f"s3://{bucket}/mine"
    assert list(source["files"]) == ["train.jsonl.xz"]


ENDPOINTS = (
    "garbage", "http://", "http://a b", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://127.0.0.1:port", "http://[::1",
    "http://me:secret@127.0.0.1:9", "http://me:secret@127.0.0.1:99999", "http://me:sec/secret@127.0.0.1:9",
    "http://127.0.0.1:9/?X-Amz-Signature=secret", "http://127.0.0.1:9#secret", "http://ex\u2100mple:secret@host",
    "http://secret@127.0.0.1:9", "http://127.0.0.1:0",
)  # fmt: skip


@pytest.fixture(params=ENDPOINTS)
def endpoint(request, monkeypatch) -> str:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.param)
    return request.param


def test_a_malformed_endpoint_is_one_sentence_without_secrets(endpoint, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DataError, match=r"^s3://bucket/x cannot be listed: the endpoint .* AWS_") as refusal:
        fetch("s3://bucket/x?signature=secret", tmp_path)
    with pytest.raises(RegistryError, match=r"^s3://bucket cannot be reached: the endpoint .* AWS_") as other:
        ObjectStore("bucket", RegistrySettings())
    for said in (str(refusal.value), str(other.value), caplog.text):
        assert "secret" not in said
    assert "\n" not in str(refusal.value)


def test_an_s3_server_that_is_not_there_is_named_without_its_query(tmp_path, monkeypatch, caplog):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("cascadexml.storage.retry.ATTEMPTS", 1)
    with pytest.raises(DataError, match=r"the server at http://127\.0\.0\.1:9 cannot be reached \(Endpoint"):
        fetch("s3://bucket/x?signature=secret", tmp_path)
    assert "secret" not in "".join(r.getMessage() for r in caplog.records)
