"""`cascadexml registry check` against a real store."""

import json

import pytest

from tests.support.command_line import cascadexml

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.support.registry_fixtures"]


def test_the_local_store_keeps_what_the_registry_relies_on(site):
    site.connect()
    found = cascadexml("registry", "check", "--registry", site.uri, "--rounds", 2, "--writers", 16, "--json")
    assert found.exit_code == 0, found.stderr
    findings = json.loads(found.stdout)
    assert [(each["promise"], each["example"]) for each in findings if each["needed"] and each["broken"]] == []
    # SeaweedFS makes ETags of the content, as S3 does.
    assert [each["example"] for each in findings if not each["needed"]] == ["ETags are those of the content"]
    assert site.keys() == {}


def test_who_may_only_read_is_told_so(site, s3_server, monkeypatch):
    for name, value in s3_server.read_only.environment.items():
        monkeypatch.setenv(name, value)
    found = cascadexml("registry", "check", "--registry", site.uri, "--rounds", 1, "--writers", 2)
    assert found.exit_code == 1
    assert "cannot be written" in found.stderr
    assert "Traceback" not in found.stderr
