"""A bucket seen by the tests of the registry: clients, processes, and what the server itself says is there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cascadexml.config import RegistrySettings
from cascadexml.errors import CascadeXMLError
from cascadexml.registry import Registry
from tests.conftest import S3Server
from tests.support.registry_processes import start

PATIENT = {"connect_timeout": 10.0, "read_timeout": 20.0, "attempts": 4, "workers": 4}
HASTY = {"connect_timeout": 1.0, "read_timeout": 0.5, "attempts": 4, "workers": 16}
NOW = timedelta(0)


@dataclass(frozen=True)
class Site:
    """A bucket of a server, and a folder for caches."""

    server: S3Server
    bucket: str
    folder: Path
    set_environment: Callable[[str, str], None]
    connected: dict[Any, Registry] = field(default_factory=dict)

    @cached_property
    def client(self) -> Any:
        return self.server.client()

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/models"

    def connect(self, endpoint: str | None = None, client: int = 0, **settings: Any) -> Registry:
        """A registry as a process would make it whose environment names `endpoint`; the same for the same arguments."""
        key = (endpoint, client, *sorted(settings.items()))
        if key not in self.connected:
            for name, value in self.environment(endpoint).items():
                self.set_environment(name, value)
            chosen = RegistrySettings(**(PATIENT | settings))
            self.connected[key] = Registry(self.uri, settings=chosen, cache=self.cache)
        return self.connected[key]

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        return self.server.environment | {"AWS_ENDPOINT_URL": endpoint or self.server.endpoint}

    def start(self, endpoint: str, method: str, *arguments: Any, **settings: Any) -> tuple[BaseProcess, Connection]:
        """Call a method in a process of its own that reaches the store by `endpoint`."""
        return start(self.environment(endpoint), self.uri, self.cache, PATIENT | settings, method, *arguments)

    def keys(self, prefix: str = "") -> dict[str, int]:
        """Key → size of all objects below the registry's prefix, as the server lists them."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"models/{prefix}")
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def uploads(self) -> list[str]:
        """Keys of the multipart uploads that are open."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [upload["Key"] for upload in found.get("Uploads", [])]

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def write(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)


def files_of(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def assert_cached(site: "Site", artifacts: list[Path]) -> None:
    """What readers take from the cache is exactly these artifacts."""
    found = [files_of(path) for path in (site.cache / "artifacts").glob("*")]
    assert sorted(found, key=str) == sorted(map(files_of, artifacts), key=str)


def oldest_first(history: list[Any]) -> list[Any]:
    """A history by its chain of sources, whichever way it was given."""
    return history if history[0].source is None else history[::-1]


def clear_error(error: Exception, site: Site) -> None:
    """One sentence that names a URI or file, and no secret."""
    text = str(error)
    assert isinstance(error, CascadeXMLError)
    assert text.endswith(".") and "\n" not in text and len(text) < 600
    assert site.server.secret_key not in text and site.server.access_key not in text
    assert "s3://" in text or "http://" in text or "/" in text
