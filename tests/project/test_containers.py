"""Dockerfile and docker-compose.yml against the project: what can be checked where no image can be built."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|_KEY|AUTH|PASSWD|PRIVATE", re.IGNORECASE)
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass
class Stage:
    """One FROM of a Dockerfile: where it starts from, and its instructions."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, word: str) -> list[str]:
        return [text for instruction, text in self.instructions if instruction == word]


def read_dockerfile() -> dict[str, Stage]:
    text = (REPO / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, re.sub(r"\\\n", " ", "\n".join(lines)).splitlines())):
        word, _, rest = line.partition(" ")
        assert re.fullmatch(
            "FROM|RUN|CMD|ENV|ARG|COPY|WORKDIR|USER|EXPOSE|ENTRYPOINT|LABEL|HEALTHCHECK|VOLUME|STOPSIGNAL", word
        ), line
        if word == "FROM":
            base, as_, name = rest.split()
            assert as_ == "AS", line
            stages[name] = Stage(base)
        else:
            next(reversed(stages.values())).instructions.append((word, rest.strip()))
    return stages


STAGES = read_dockerfile()


def ancestry(name: str) -> list[Stage]:
    """A stage and those it starts from, nearest first."""
    found = []
    while name in STAGES:
        found.append(STAGES[name])
        name = STAGES[name].base
    return found


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand once."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    assert len(keys) == len(set(keys)), f"a key stands twice in {keys}"
    loader.flatten_mapping(node)
    return {loader.construct_object(key, deep=True): loader.construct_object(value, deep=True)
            for key, value in node.value}  # fmt: skip


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_TEXT = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.load(_TEXT, StrictLoader)  # noqa: S506
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last pattern that matches it or a folder above decides."""
    kept = True
    for line in (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            expression = "".join(
                {"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part))
                for part in re.split(r"(\*\*/|\*)", pattern)
            )
            if re.fullmatch(f"{expression}(?:/.*)?", path):
                kept = line.startswith("!")
    return kept


def project_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, check=True,
    )  # fmt: skip
    return [name for name in listed.stdout.decode().split("\0") if name and (REPO / name).is_file()]


def pinned(image: str) -> bool:
    return re.fullmatch(r"[a-z0-9./-]+:[0-9]+\.[0-9]+[\w.-]*(\$\{[A-Z_]+:-[a-z]+\})?", image) is not None


def test_every_image_is_pinned_by_a_version() -> None:
    images = [stage.base for stage in STAGES.values() if stage.base not in STAGES]
    images += [service["image"] for service in SERVICES.values()]
    assert images
    assert [image for image in images if not pinned(image)] == []
    assert not pinned("python:latest")
    assert not pinned("python")


def test_the_versions_are_those_of_the_project() -> None:
    tags = {service["image"].partition(":")[2].partition("-")[0] for service in SERVICES.values() if "build" in service}
    assert tags == {PROJECT["version"]}
    least = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    for stage in STAGES.values():
        if stage.base.startswith("python:"):
            assert tuple(map(int, re.findall(r"\d+", stage.base)[:2])) >= least


def test_stages_are_copied_from_and_built_upon_only_after_they_were_made() -> None:
    seen: list[str] = []
    for name, stage in STAGES.items():
        assert stage.base in seen or ":" in stage.base
        for text in stage.arguments("COPY"):
            if source := re.match(r"--from=(\S+)", text):
                assert source[1] in seen
        seen.append(name)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_each_target_runs_as_somebody_else_than_root(target: str) -> None:
    users = [user for stage in ancestry(target) for user in reversed(stage.arguments("USER"))]
    # By number, so that Kubernetes can tell that it is not root.
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[0])
    for text in STAGES[target].arguments("COPY"):
        assert text.endswith("/opt/venv") or f"--chown={users[0]}" in text


def test_the_targets_differ_only_in_their_torch() -> None:
    cpu, gpu = (STAGES[name].instructions for name in ("cpu", "gpu"))
    assert [(word, text.replace("-cpu", "-gpu")) for word, text in cpu] == gpu
    cpu, gpu = (STAGES[f"libraries-{name}"].instructions for name in ("cpu", "gpu"))
    different = [text for _, text in set(cpu) ^ set(gpu)]
    assert different
    assert all("torch" in text.lower() for text in different)


def test_what_is_installed_is_what_the_lock_says() -> None:
    for stage in STAGES.values():
        for text in stage.arguments("RUN"):
            for command in re.split(r"&&|;", text):
                words = shlex.split(command)
                if "install" in words and "pip" in words[:2]:
                    own = words[-2:] == ["--no-deps", "."]
                    locked = any("requirements.lock" in word for word in words)
                    assert own or locked, command
    lock = (REPO / "requirements.lock").read_text(encoding="utf-8")
    assert len(re.findall(r"^torch==\S+$", lock, flags=re.M)) == 1
    assert "pipeline" in PROJECT["optional-dependencies"]


def test_the_image_is_built_without_secrets() -> None:
    for stage in STAGES.values():
        for text in stage.arguments("ARG") + stage.arguments("ENV"):
            for name in re.findall(r"(\w+)(?==|$)", text):
                assert not SECRET.search(name), text
        assert not any("--mount=type=secret" in text for text in stage.arguments("RUN"))


def test_everything_that_is_copied_is_in_the_build_context() -> None:
    context = [name for name in project_files() if in_context(name)]
    for stage in STAGES.values():
        for text in stage.arguments("COPY"):
            words = [word for word in text.split() if not word.startswith("--")]
            if "--from=" not in text:
                for source in words[:-1]:
                    there = [name for name in context if name == source or name.startswith(f"{source}/")]
                    assert there, source
    for name in project_files():
        if name.startswith(("cascadexml/", "stages/", "flows/", "params/", "data/sample/")):
            assert name in context, name


@pytest.mark.parametrize(
    "path",
    [
        ".env", ".env.production", "flows/.env", "keys/sign.pem", "cascadexml/sign.pem", ".git/config",
        ".venv/bin/python", ".local/credentials", ".dvc/config.local", ".dvc/cache/files/md5/00/11",
        "data/models/artifact/manifest.json", "data/accepted/batch.parquet", "data/incoming/batch.parquet",
        "data/base/artifact/manifest.json",
        "stages/__pycache__/x.pyc", "tests/conftest.py",
    ],
)  # fmt: skip
def test_what_is_secret_large_or_of_no_use_stays_out_of_the_build(path: str) -> None:
    assert not in_context(path)


def test_the_services_are_there_and_say_when_they_are_healthy() -> None:
    assert set(SERVICES) == {"postgres", "store", "server", "setup", "worker"}
    assert all(key in {"name", "services", "volumes"} or key.startswith("x-") for key in COMPOSE)
    for name, service in SERVICES.items():
        if service["restart"] == "no":
            continue
        check = service["healthcheck"]
        assert check["test"][0] in {"CMD", "CMD-SHELL"}
        assert {"interval", "timeout", "retries", "start_period"} <= check.keys()
        if "python" in check["test"]:
            ast.parse(check["test"][-1])
            listens = " ".join(map(str, service["command"]))
            port = re.search(r"127\.0\.0\.1:(\d+)", check["test"][-1])
            assert port
            assert port[1] in listens or name == "worker"


def test_services_wait_for_what_they_need() -> None:
    for service in SERVICES.values():
        for needed, condition in service.get("depends_on", {}).items():
            once = SERVICES[needed]["restart"] == "no"
            wanted = "service_completed_successfully" if once else "service_healthy"
            assert condition == {"condition": wanted}
    for user, needed in (("server", "postgres"), ("setup", "server"), ("worker", "setup"), ("worker", "store")):
        assert needed in SERVICES[user]["depends_on"]


def test_no_secret_stands_in_the_file() -> None:
    """A variable that holds a secret is taken from the environment and must be set; none is part of a command."""
    found = set()
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), name
                found.add(value.partition(":?")[0])
        spoken = " ".join(map(str, [*service.get("command", []), *service.get("healthcheck", {}).get("test", [])]))
        assert "${" not in spoken
    assert len(found) == 4
    text = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
    assert "://" not in re.sub(r"(http|s3)://[a-z0-9.]+[:/]", "", text)


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_volumes_are_declared_and_used_and_theirs_to_write() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert {name for name, _ in mounts} == set(COMPOSE["volumes"])
    made = " ".join(text for stage in (*ancestry("cpu"), STAGES["project"]) for text in stage.arguments("RUN"))
    for _, place in mounts:
        if not place.startswith("/var/lib/postgresql"):
            inside = place.removeprefix("/app/")
            copied = any(text.split()[-1] == inside for text in STAGES["project"].arguments("COPY"))
            assert copied or re.search(rf"\s{re.escape(inside)}(\s|$)", made), place


def test_our_services_are_built_from_a_target_and_have_no_privileges() -> None:
    for name, service in SERVICES.items():
        if name != "postgres":
            target = re.fullmatch(r"\$\{CASCADEXML_TARGET:-(\w+)\}", service["build"]["target"])
            assert target
            assert target[1] in STAGES
            assert service["image"].endswith(service["build"]["target"])
            assert service["cap_drop"] == ["ALL"]
            assert service["init"] is True


def test_commands_name_what_exists() -> None:
    script = SERVICES["setup"]["command"][-1]
    assert subprocess.run(["sh", "-n", "-c", script], timeout=20).returncode == 0
    spoken = [script, *(" ".join(map(str, service.get("command", []))) for service in SERVICES.values())]
    modules = {module for text in spoken for module in re.findall(r"python -m ([\w.]+)", text)}
    assert modules
    for module in modules:
        assert (REPO / module.replace(".", "/")).with_suffix(".py").is_file()
    weed = Path(sys.executable).with_name("weed")
    known = subprocess.run([weed, "mini", "-h"], capture_output=True, text=True, timeout=60)
    options = [word.partition("=")[0] for word in SERVICES["store"]["command"] if word.startswith("-")]
    for option in options:
        assert re.search(rf"^  {re.escape(option)}\b", known.stdout + known.stderr, flags=re.M), option


def test_prefect_knows_the_settings_and_options() -> None:
    from prefect.settings.profiles import Profile

    names = {name: "1" for service in SERVICES.values() for name in service.get("environment", {})}
    names = {name: value for name, value in names.items() if name.startswith("PREFECT_")}
    assert len(names) > 8
    assert {setting.name for setting in Profile(name="ours", settings=names).settings} == set(names)
    command = STAGES["runtime"].arguments("CMD")[0]
    worker = SERVICES["worker"]["command"]
    assert yaml.safe_load(command) == worker
    helped = subprocess.run(
        [sys.executable, "-m", *worker[:3], "--help"], capture_output=True, text=True, timeout=120, check=True
    )
    for option in worker[3:]:
        if option.startswith("--"):
            assert option in helped.stdout


def test_the_page_on_deployment_tells_every_variable() -> None:
    page = (REPO / "docs" / "deployment.md").read_text(encoding="utf-8")
    text = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    told = set(re.findall(r"`([A-Z][A-Z_]+)`", page))
    assert asked <= told, asked - told
    read = set()
    for file in [*REPO.glob("cascadexml/**/*.py"), *REPO.glob("flows/**/*.py")]:
        read |= set(re.findall(r"\bCASCADEXML_[A-Z_]+\b", file.read_text(encoding="utf-8")))
    assert read - {"CASCADEXML_SERVICES"} <= told, read - told
