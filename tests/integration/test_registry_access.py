"""Wrong or missing rights, buckets and networks: one sentence, exit code 1, no secret, nothing half-done."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cascadexml.config import RegistrySettings
from cascadexml.errors import CascadeXMLError
from cascadexml.registry import Registry
from tests.conftest import free_ports
from tests.support.command_line import cascadexml
from tests.support.registry_site import HASTY, NOW, Site, assert_cached, clear_error, files_of

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.support.registry_fixtures"]

WRONG = "wrong-secret-key-of-somebody"
PARAMS = "registry: {connect_timeout: 1, read_timeout: 5, attempts: 2}\n"


@pytest.fixture(scope="module")
def versions(site, artifacts) -> list[str]:
    """Two versions of the model "tiny", each of which was its champion, and an open upload."""
    registry = site.connect()
    found = [registry.publish(path, "tiny").version for path in artifacts[:2]]
    for version in found:
        registry.promote("tiny", version, reason="to begin with")
    site.client.create_multipart_upload(Bucket=site.bucket, Key="models/tiny/versions/v-000000000000/vocabulary.json")
    site.write("models/tiny/versions/v-111111111111/vocabulary.json", b"what a publisher left")
    return found


def reads(registry: Registry, versions: list[str]) -> dict[str, Callable[[], Any]]:
    return {
        "names": registry.names,
        "versions": lambda: registry.versions("tiny"),
        "aliases": lambda: registry.aliases("tiny"),
        "history": lambda: registry.history("tiny"),
        "resolve": lambda: registry.resolve("tiny"),
        "resolve a version": lambda: registry.resolve("tiny", versions[0]),
        "diff": lambda: registry.diff("tiny", *versions),
        "pull": lambda: registry.pull("tiny"),
        "records": lambda: registry.records("tiny", "monitoring"),
    }


def writes(registry: Registry, versions: list[str], artifacts: list[Path]) -> dict[str, Callable[[], Any]]:
    return {
        "publish": lambda: registry.publish(artifacts[2], "tiny"),
        "publish another": lambda: registry.publish(artifacts[2], "another"),
        "promote": lambda: registry.promote("tiny", versions[0], reason="why not"),
        "promote to a new alias": lambda: registry.promote("tiny", versions[0], "challenger", reason="why not"),
        "roll back": lambda: registry.roll_back("tiny", reason="why not"),
        "put a record": lambda: registry.put_record("tiny", "monitoring", "key", {"record.json": b"{}"}),
        "gc": lambda: registry.gc(older_than=NOW),
        "gc of old versions": lambda: registry.gc("tiny", older_than=NOW, keep=1),
    }


def contents(site: Site) -> dict[str, bytes]:
    return {key: site.read(key) for key in site.keys("")}


def refused(calls: dict[str, Callable[[], Any]], site: Site, hint: str) -> None:
    for what, call in calls.items():
        with pytest.raises(CascadeXMLError) as caught:
            print(what, call())
        clear_error(caught.value, site)
        text = str(caught.value)
        # The answer to a HEAD says no more than that access is denied.
        assert hint in text or (what == "put a record" and "access denied; check the credentials" in text), (what, text)
        assert WRONG not in text


def nobody_listens() -> dict[str, str | None]:
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}"}


OUTSIDE: dict[str, tuple[Callable[[], dict[str, str | None]], str, str]] = {
    "a wrong secret": (lambda: {"AWS_SECRET_ACCESS_KEY": WRONG}, "", "AWS_SECRET_ACCESS_KEY"),
    "an unknown key": (lambda: {"AWS_ACCESS_KEY_ID": "unknown"}, "", "AWS_ACCESS_KEY_ID"),
    "no credentials": (
        lambda: {
            "AWS_ACCESS_KEY_ID": None,
            "AWS_SECRET_ACCESS_KEY": None,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
        },
        "",
        "no credentials",
    ),
    "half of the credentials": (lambda: {"AWS_SECRET_ACCESS_KEY": None}, "", "credentials"),
    "no such profile": (lambda: {"AWS_PROFILE": "nobody"}, "", "AWS_PROFILE"),
    "no such bucket": (dict, "s3://there-is-no-such-bucket/models", "bucket does not exist"),
    "nobody listens": (nobody_listens, "", "AWS_ENDPOINT_URL"),
    "no such host": (lambda: {"AWS_ENDPOINT_URL": "http://no-such-host.invalid:9000"}, "", "AWS_ENDPOINT_URL"),
    "no URL": (lambda: {"AWS_ENDPOINT_URL": "localhost:9000"}, "", "AWS_ENDPOINT_URL"),
}


@pytest.fixture(params=OUTSIDE)
def outside(request, site, versions, name, monkeypatch) -> tuple[str, str]:
    """The URI of a registry that cannot be reached from the environment set, and what a message must hint at."""
    changes, uri, hint = OUTSIDE[request.param]
    for key, value in (site.environment() | changes()).items():
        if value is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, value)
    return uri or site.uri, hint


def test_from_outside_every_call_is_one_clear_error(site, versions, artifacts, outside):
    uri, hint = outside
    before = contents(site)

    def registry() -> Registry:
        return Registry(uri, settings=RegistrySettings(**HASTY | {"attempts": 1}), cache=site.cache)

    try:
        made = registry()
    except CascadeXMLError:
        refused({"making it": registry}, site, hint)
    else:
        refused(reads(made, versions) | writes(made, versions, artifacts), site, hint)
    assert contents(site) == before
    assert_cached(site, [])


def test_from_outside_the_command_line_says_one_line(site, versions, artifacts, outside, tmp_path, monkeypatch):
    uri, hint = outside
    before = contents(site)
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS)
    monkeypatch.setenv("CASCADEXML_CACHE", str(site.cache))
    commands = (
        ["publish", str(artifacts[2]), "--name", "another"],
        ["list"],
        ["promote", "tiny", versions[0], "--reason", "why not"],
        ["pull", "tiny", "--to", str(tmp_path / "copy")],
    )
    for command in commands:
        arguments = ["registry", command[0], "--registry", uri, "--params", str(params), *command[1:]]
        printed = cascadexml(*arguments)
        assert printed.exit_code == 1, command
        assert printed.stdout == ""
        (line,) = [line for line in printed.stderr.splitlines() if not line.startswith("INFO")]
        assert line.startswith("cascadexml: error: ")
        assert hint in line
        assert WRONG not in line and site.server.secret_key not in line and site.server.access_key not in line
    assert contents(site) == before
    assert not (tmp_path / "copy").exists()
    assert_cached(site, [])


def test_a_process_without_network_says_one_line_on_stderr(site, versions, tmp_path):
    environment = os.environ | site.environment(nobody_listens()["AWS_ENDPOINT_URL"])
    ran = subprocess.run(
        [sys.executable, "-m", "cascadexml", "info", f"{site.uri}/tiny@champion"],
        env=environment | {"CASCADEXML_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("cascadexml: error: s3://")
    assert "AWS_ENDPOINT_URL" in line and site.server.secret_key not in line


def test_who_may_only_read_can_read_all_and_change_nothing(site, versions, artifacts, name, monkeypatch):
    before, open_before = contents(site), site.uploads()
    reader = replace(site, server=site.server.read_only, connected={})
    for key, value in reader.environment().items():
        monkeypatch.setenv(key, value)
    registry = Registry(site.uri, settings=RegistrySettings(), cache=site.cache)
    for call in reads(registry, versions).values():
        call()
    assert_cached(site, [artifacts[1]])
    registry.gc(older_than=NOW, dry_run=True)
    assert cascadexml("registry", "list", "tiny", "--registry", site.uri).exit_code == 0
    refused(writes(registry, versions, artifacts), reader, "rights")
    printed = cascadexml("registry", "promote", "tiny", versions[0], "--registry", site.uri, "--reason", "why not")
    assert printed.exit_code == 1 and printed.stdout == ""
    assert printed.stderr.startswith("cascadexml: error: ") and printed.stderr.count("\n") == 1
    assert contents(site) == before
    assert site.uploads() == open_before


def test_an_upload_that_may_not_be_given_up_is_an_error_of_gc(site, name, monkeypatch):
    key = f"models/{name}/versions/v-000000000000/vocabulary.json"
    site.client.create_multipart_upload(Bucket=site.bucket, Key=key)
    for variable, value in replace(site, server=site.server.read_only).environment().items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(CascadeXMLError, match="rights"):
        Registry(site.uri).gc(name, older_than=NOW)
    assert key in site.uploads()
    (removed,) = site.connect().gc(name, older_than=NOW)
    assert (removed.what, removed.uri) == ("upload", f"s3://{site.bucket}/{key}")
    assert key not in site.uploads()


def test_a_copy_that_cannot_be_written_leaves_nothing(site, versions, artifacts, name, tmp_path):
    """A path below a file, and a folder that holds something else."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    before = files_of(tmp_path)
    for path in (tmp_path / "file" / "below", tmp_path / "file", tmp_path / "folder"):
        with pytest.raises((CascadeXMLError, OSError)):
            site.connect().pull("tiny", to=path)
    assert files_of(tmp_path) == before
