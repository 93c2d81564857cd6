"""What a store keeps is found out by doing it: one in memory that breaks a promise is told from one that does not."""

import json

import pytest
from click.testing import CliRunner

from cascadexml.cli import main
from cascadexml.registry.checking import check_store
from tests.support.memory_s3 import memory_s3

URI = "s3://bucket/models"
BROKEN = {
    "nothing": set(),
    "races": {"of many who create an object one wins", "of many who replace a version of an object one wins"},
    "conditions": {
        "of many who create an object one wins",
        "of many who replace a version of an object one wins",
        "what has changed is not replaced by its old ETag",
        "what is not there is told from what is",
        "an object that was replaced is not read on",
        "an old ETag stays refused when the content comes back",
    },
    "checksums": {"a body that differs from its checksum is refused"},
    "listings": {"a write is read and listed at once, and so is a removal"},
    "reads": {"an object that was replaced is not read on"},
}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-nobody")


@pytest.mark.parametrize("breaks", BROKEN)
def test_the_promise_that_a_store_breaks_is_named(breaks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_s3(breaks) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        found = check_store(URI, rounds=3, writers=8)
    assert {finding.promise for finding in found if finding.broken} == BROKEN[breaks]
    assert {finding.tried for finding in found} == {3}
    assert all(bool(finding.example) == bool(finding.broken) for finding in found)
    assert [finding.promise for finding in found if not finding.needed] == [
        "an old ETag stays refused when the content comes back"
    ]


def test_a_store_that_fails_is_refused_by_name_unless_somebody_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["registry", "check", "--registry", URI, "--rounds", "2", "--writers", "8"]
    with memory_s3("races") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        refused = CliRunner().invoke(main, command)
        assert refused.exit_code == 1
        assert "BROKEN" in refused.output
        insisted = CliRunner().invoke(main, [*command, "--insist", "--json"])
    assert insisted.exit_code == 0
    broken = [finding["promise"] for finding in json.loads(insisted.stdout) if finding["broken"]]
    assert set(broken) == BROKEN["races"]


def test_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from cascadexml.config import RegistrySettings
    from cascadexml.storage.object_store import ObjectStore

    with memory_s3() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = ObjectStore("bucket", RegistrySettings())
        store.put("models/tiny/aliases/champion.json", b"{}")
        check_store(URI, rounds=2, writers=4)
        assert [entry.key for entry in store.list("")] == ["models/tiny/aliases/champion.json"]
