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

from cascadexml.data.corpus import Corpus
from flows.local.weed import start_store
from tests.support.scheduling import GroupScheduling

REPO = Path(__file__).resolve().parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling | None:
    """Files that share services stay together where each file goes to one process."""
    return GroupScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms of tests out unless asked for."""
    if "soak" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


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
    """A running SeaweedFS: its URL and credentials that it takes."""

    endpoint: str
    access_key: str
    secret_key: str
    reader: tuple[str, str] = ("", "")

    @property
    def read_only(self) -> "S3Server":
        """The same server for an identity that may read and list, but neither write nor delete."""
        return S3Server(self.endpoint, *self.reader)

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


class SeaweedFS:
    """A SeaweedFS on a folder, which can be killed and started again there with the same ports and credentials.

    Args:
        folder: where it keeps its data and its log; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, folder / "server.log"
        self.ports = free_ports(5)
        keys, reader = ((secrets.token_hex(10), secrets.token_hex(20)) for _ in range(2))
        self.server = S3Server(f"http://127.0.0.1:{self.ports[0]}", *keys, reader)
        identity = {
            "name": "reader",
            "credentials": [{"accessKey": reader[0], "secretKey": reader[1]}],
            "actions": ["Read", "List"],
        }
        self.identities = folder / "identities.json"
        self.identities.write_text(json.dumps({"identities": [identity]}))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> S3Server:
        """Start it and wait until it answers."""
        self.process = start_store(
            self.folder,
            self.ports,
            self.server.access_key,
            self.server.secret_key,
            log=self.log,
            options=[f"-s3.config={self.identities}"],
        )
        _wait_until_healthy(self.process, f"{self.server.endpoint}/healthz", self.log)
        return self.server

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """End it in order; with SIGKILL if that takes too long."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS) with random credentials, on free ports, for the length of the session."""
    store = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    try:
        yield store.start()
    finally:
        store.stop()


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-3000:]}")
