"""Fixtures that the tests of the registry share; a plugin of pytest."""

import random
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cascadexml.evaluation.calibration import Calibration
from cascadexml.storage import multipart
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.registry_processes import SMALLEST_PART
from tests.support.registry_site import Site
from tests.support.tiny_artifacts import pack_again, pack_tiny


@pytest.fixture(scope="module")
def packed(small_corpus, tmp_path_factory) -> Path:
    """The folder of a tiny artifact and of what it was packed from."""
    folder = tmp_path_factory.mktemp("packed")
    pack_tiny(folder, small_corpus)
    return folder


@pytest.fixture(scope="module")
def big(packed, small_corpus) -> Path:
    """An artifact with a file of 6 MB, which goes up in two parts."""
    vocabulary = small_corpus.vocabulary
    names = ("".join(random.Random(0).choices("abcdefgh ", k=6_000_000)), *vocabulary.names[1:])
    pack_again(packed / "big", packed, small_corpus, vocabulary=replace(vocabulary, names=names))
    return packed / "big"


@pytest.fixture(scope="module")
def artifacts(packed, small_corpus) -> list[Path]:
    """Sixteen artifacts that differ in one file and in the manifest."""
    paths = [packed / f"artifact-{i}" for i in range(16)]
    for i, path in enumerate(paths):
        pack_again(path, packed, small_corpus, calibration=Calibration(0.3, 0.1, 0.1 + i / 50))
    return paths


@pytest.fixture(scope="module")
def site(s3_server, tmp_path_factory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        yield Site(s3_server, s3_server.make_bucket(), tmp_path_factory.mktemp("site"), patch.setenv)


@pytest.fixture
def small_parts(monkeypatch) -> None:
    """What is larger than S3's smallest part goes up in parts, in this process too."""
    monkeypatch.setattr(multipart, "PART", SMALLEST_PART)


@pytest.fixture
def name(site) -> str:
    """A model that the registry does not hold yet; the cache is empty."""
    shutil.rmtree(site.cache, ignore_errors=True)
    return f"model-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def fault_proxy_of_module(s3_server) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.endpoint) as made:
        yield made


@pytest.fixture
def proxy(fault_proxy_of_module) -> FaultProxy:
    """A proxy that breaks nothing yet."""
    fault_proxy_of_module.break_with()
    return fault_proxy_of_module
