"""Fixtures shared by all tests: the repository, the bundled sample, a small real corpus, a real S3 server."""

import itertools
import json
import lzma
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One thread a process: tests run side by side, and torch's threads waiting for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import boto3
import pyarrow as pa
import pytest
from botocore.config import Config

from cascadexml.corpus import Corpus

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return REPO


@pytest.fixture(scope="session")
def sample_dir() -> Path:
    return REPO / "data" / "sample"


def sample_records(split: str, n: int) -> list[dict[str, Any]]:
    """The first n records of a split of the bundled sample, read without the library."""
    with lzma.open(REPO / "data" / "sample" / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, n)]


@pytest.fixture(scope="session")
def small_corpus() -> Corpus:
    """Real records: the first 300 of train, 60 of dev and 60 of test. Many labels of dev and test are not in train."""
    with lzma.open(REPO / "data" / "sample" / "label_texts.json.xz", "rt", encoding="utf-8") as file:
        names = json.load(file)
    sizes = {"train": 300, "dev": 60, "test": 60}
    tables = {split: pa.Table.from_pylist(sample_records(split, n)) for split, n in sizes.items()}
    return Corpus.from_records(tables, names)


@dataclass(frozen=True)
class S3Server:
    """A running SeaweedFS: its URL and the only credentials it takes."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to reach the server by boto3's own credential chain."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def make_bucket(self) -> str:
        """A new empty bucket with a random name."""
        bucket = f"test-{secrets.token_hex(8)}"
        self.client().create_bucket(Bucket=bucket)
        return bucket


def free_ports(n: int) -> list[int]:
    """n ports below 20000 that nobody listens on, each with its gRPC twin (port + 10000, SeaweedFS's rule) free too."""
    found: list[int] = []
    while len(found) < n:
        port = 10000 + secrets.randbelow(10000)
        with socket.socket() as one, socket.socket() as twin:
            try:
                one.bind(("127.0.0.1", port))
                twin.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS) with random credentials, on free ports, for the length of the session."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    s3, master, volume, filer, admin = free_ports(5)
    command = [
        str(REPO / ".venv" / "bin" / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-s3.autoCreateBucket=false", "-admin.ui=false", "-webdav=false", "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        environment = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "HOME": str(folder)}
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        endpoint = f"http://127.0.0.1:{s3}"
        _wait_until_healthy(server, f"{endpoint}/healthz", folder / "server.log")
        yield S3Server(endpoint, access_key, secret_key)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-3000:]}")
