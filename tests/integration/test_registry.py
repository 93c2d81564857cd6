"""The registry against a real S3 server (SeaweedFS): what it promises when nothing breaks, or much happens at once."""

import hashlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cascadexml import Predictor
from cascadexml.artifact.artifact import open_artifact
from cascadexml.artifact.formats import ARTIFACT
from cascadexml.config import RegistrySettings
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import (
    CascadeXMLError,
    ConflictError,
    DataError,
    FormatError,
    NotFoundError,
    RegistryError,
)
from cascadexml.registry import Registry
from cascadexml.storage.multipart import PART
from tests.support.command_line import cascadexml
from tests.support.hashing import hashed
from tests.support.tiny_artifacts import pack_again, pack_tiny, tiny_metrics

pytestmark = pytest.mark.integration
NOW = timedelta(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_corpus) -> Path:
    """Three artifacts: a; b, with another figure; c, with other labels' names and one file of several parts."""
    folder = tmp_path_factory.mktemp("artifacts")
    pack_tiny(folder, small_corpus).rename(folder / "a")
    metrics = tiny_metrics()
    better = replace(metrics.model, figures={**metrics.model.figures, "P@1": 0.5})
    pack_again(folder / "b", folder, small_corpus, metrics=replace(metrics, model=better))
    vocabulary = small_corpus.vocabulary
    names = ("renamed", *vocabulary.names[1:])
    pack_again(folder / "packed", folder, small_corpus, vocabulary=Vocabulary(vocabulary.ids, names, vocabulary.L))
    packed = open_artifact(folder / "packed")
    with ARTIFACT.write(folder / "c", packed.meta) as new:
        shutil.copytree(
            packed.path, new, dirs_exist_ok=True, ignore=lambda at, _: ["manifest.json"] * (at == str(packed.path))
        )
        (new / "ballast.bin").write_bytes(random.Random(0).randbytes(2 * PART + 12345))
    return folder


@pytest.fixture
def bucket(s3_server, monkeypatch, tmp_path) -> str:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CASCADEXML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CASCADEXML_VERIFY_KEY", raising=False)
    return s3_server.make_bucket()


@pytest.fixture
def registry(bucket) -> Registry:
    return Registry(f"s3://{bucket}/models")


@pytest.fixture
def store(s3_server, bucket) -> Any:
    return Raw(s3_server.client(), bucket)


class Raw:
    """The bucket, read and written without the library."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket

    def files(self, prefix: str = "") -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key.removeprefix(prefix): self.get(key) for key in keys}

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def head(self, key: str) -> dict[str, Any]:
        return self.client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")


def files_of(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_version_is_the_artifact_byte_for_byte(registry, store, folder):
    seen = []
    version = registry.publish(folder / "c", by="Zoë", progress=lambda *what: seen.append(what))
    digest = hashlib.sha256((folder / "c" / "manifest.json").read_bytes()).hexdigest()
    assert (version.name, version.version, version.fingerprint) == ("tiny", f"v-{digest[:12]}", digest)
    assert version.uri == f"{registry.uri}/tiny/versions/{version.version}"
    assert version.by == "Zoë"
    assert version.meta == open_artifact(folder / "c").meta
    key = version.uri.removeprefix(f"s3://{store.bucket}/")
    assert store.files(f"{key}/") == files_of(folder / "c")
    assert seen[-1][:3] == ("publish", version.size, version.size)
    # The server has checked what came: a file of one part by its SHA-256, one of several by those of its parts.
    assert store.head(f"{key}/vocabulary.json")["ChecksumSHA256"]
    assert store.head(f"{key}/ballast.bin")["ChecksumSHA256"].endswith("-3")
    assert not store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads")


def test_publishing_again_is_publishing_once(registry, store, folder):
    one = registry.publish(folder / "a")
    manifest = store.head(f"models/tiny/versions/{one.version}/manifest.json")
    assert registry.publish(folder / "a") == one
    assert store.head(f"models/tiny/versions/{one.version}/manifest.json")["LastModified"] == manifest["LastModified"]
    assert registry.publish(folder / "a", "other").name == "other"
    two = registry.publish(folder / "b")
    assert two.version != one.version
    assert [v.version for v in registry.versions("tiny")] in ([one.version, two.version], [two.version, one.version])
    assert registry.names() == ["other", "tiny"]


def test_a_publication_goes_on_where_it_stopped(registry, store, folder):
    """Files of an earlier attempt are kept; damaged or truncated ones are brought again."""
    key = f"models/tiny/versions/{registry.publish(folder / 'c').version}/"
    store.delete(f"{key}manifest.json")
    for damaged in ("calibration.json", "model_card.md"):
        store.put(f"{key}{damaged}", b"x" * (folder / "c" / damaged).stat().st_size)
    store.put(f"{key}label_counts.npy", b"short")
    store.delete(f"{key}vocabulary.json")
    before = store.head(f"{key}ballast.bin")["LastModified"]
    time.sleep(1.1)
    assert registry.names() == []
    version = registry.publish(folder / "c")
    assert store.files(key) == files_of(folder / "c")
    assert store.head(f"{key}ballast.bin")["LastModified"] == before
    # What is lost of a complete version is brought back too.
    store.delete(f"{key}vocabulary.json")
    assert registry.publish(folder / "c") == version
    assert store.files(key) == files_of(folder / "c")


def test_another_manifest_in_a_versions_place_is_not_taken_for_it(registry, store, folder):
    version = registry.publish(folder / "a").version
    other = store.get(f"models/tiny/versions/{registry.publish(folder / 'b').version}/manifest.json")
    store.put(f"models/tiny/versions/{version}/manifest.json", other)
    with pytest.raises(ConflictError, match=f"{version}/ holds another manifest"):
        registry.publish(folder / "a")
    assert store.get(f"models/tiny/versions/{version}/manifest.json") == other


def test_what_is_no_artifact_is_not_published(registry, store, folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "damaged")
    (tmp_path / "damaged" / "vocabulary.json").write_text("{}")
    with pytest.raises(FormatError, match=r"vocabulary\.json"):
        registry.publish(tmp_path / "damaged")
    with pytest.raises(FormatError, match=r"holds no manifest\.json"):
        registry.publish(tmp_path)
    with pytest.raises(DataError, match="cannot be a model's name"):
        registry.publish(folder / "a", "a/b")
    assert store.files() == {}


def test_a_version_without_a_manifest_is_not_there(registry, store, folder):
    version = registry.publish(folder / "a").version
    registry.promote("tiny", version, reason="first")
    store.delete(f"models/tiny/versions/{version}/manifest.json")
    assert registry.names() == []
    assert registry.versions("tiny") == []
    for ref in ("champion", version):
        with pytest.raises(NotFoundError, match=f"has no version {version}"):
            registry.pull("tiny", ref)
    with pytest.raises(NotFoundError, match="has no version"):
        registry.promote("tiny", version, "challenger", reason="second")
    assert registry.aliases("tiny") == {"champion": version}


@pytest.fixture
def three(registry, folder) -> list[str]:
    return [registry.publish(folder / which).version for which in "abc"]


def test_an_alias_moves_and_goes_back(registry, three):
    a, b, c = three
    first = registry.promote("tiny", a, reason=" first ", by="Ada")
    assert (first.source, first.target, first.reason, first.by, first.alias) == (None, a, "first", "Ada", "champion")
    for version in (b, c):
        registry.promote("tiny", version, reason="better")
    assert registry.resolve("tiny").version == c
    assert registry.promote("tiny", c, reason="once more") == registry.history("tiny")[-1]
    assert registry.roll_back("tiny", reason="worse").target == b
    assert registry.roll_back("tiny", reason="worse still").target == a
    with pytest.raises(NotFoundError, match="nothing to go back to"):
        registry.roll_back("tiny", reason="further")
    assert registry.roll_back("tiny", reason="after all", to=c).target == c
    history = registry.history("tiny")
    assert [(m.source, m.target, m.action) for m in history] == [
        (None, a, "promote"), (a, b, "promote"), (b, c, "promote"),
        (c, b, "rollback"), (b, a, "rollback"), (a, c, "rollback"),
    ]  # fmt: skip
    assert len({m.id for m in history}) == 6
    assert [m.when for m in history] == sorted(m.when for m in history)
    registry.promote("tiny", b, "challenger", reason="to be judged")
    assert registry.aliases("tiny") == {"champion": c, "challenger": b}


def test_moves_that_are_refused(registry, store, three):
    a, b, _ = three
    with pytest.raises(ConflictError, match=f"no alias champion, expected {b}"):
        registry.promote("tiny", a, reason="x", expect=b)
    registry.promote("tiny", a, reason="x", expect=None)
    with pytest.raises(ConflictError, match=rf"names {a} since .* by Ada .*, expected {b}") as caught:
        registry.promote("tiny", registry.promote("tiny", b, reason="y").target, "other", reason="z")
        registry.roll_back("tiny", reason="why", by="Ada")
        registry.promote("tiny", three[2], reason="x", expect=b)
    assert "(why)" in str(caught.value)
    with pytest.raises(ConflictError, match="expected no such alias"):
        registry.promote("tiny", b, reason="x", expect=None)
    for reason in ("", "  \n"):
        with pytest.raises(RegistryError, match="needs a reason"):
            registry.promote("tiny", b, reason=reason)
        with pytest.raises(RegistryError, match="needs a reason"):
            registry.roll_back("tiny", reason=reason)
    with pytest.raises(NotFoundError, match="is no version"):
        registry.promote("tiny", "champion", reason="x")
    with pytest.raises(NotFoundError, match="has no version v-0"):
        registry.promote("tiny", "v-000000000000", reason="x")
    with pytest.raises(DataError, match="a version's name and cannot be an alias"):
        registry.promote("tiny", a, b, reason="x")
    with pytest.raises(NotFoundError, match="never named"):
        registry.roll_back("tiny", reason="x", to=three[2])
    with pytest.raises(NotFoundError, match=r"no alias 'nope' \(there is: champion, other\)"):
        registry.roll_back("tiny", "nope", reason="x")
    with pytest.raises(NotFoundError, match="no alias 'nope'"):
        registry.history("tiny", "nope")
    with pytest.raises(NotFoundError, match="no alias 'champion'"):
        registry.resolve("no-such-model")
    store.delete(f"models/tiny/versions/{b}/vocabulary.json")
    with pytest.raises(FormatError, match=r"vocabulary\.json is in the manifest but not in the store"):
        registry.promote("tiny", b, reason="x")
    assert registry.resolve("tiny").version == a


def test_a_roll_back_goes_only_to_a_whole_version(registry, store, three, s3_server, monkeypatch):
    for version in three[:2]:
        registry.promote("tiny", version, reason="better")
    store.delete(f"models/tiny/versions/{three[0]}/vocabulary.json")
    with pytest.raises(FormatError, match=r"vocabulary\.json is in the manifest but not in the store"):
        registry.roll_back("tiny", reason="worse")
    assert [move.target for move in registry.history("tiny")] == three[:2]
    # Who may not write hears the same: it is looked at before the alias moves, not only after.
    for key, value in s3_server.read_only.environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(FormatError, match=r"vocabulary\.json is in the manifest but not in the store"):
        Registry(registry.uri).roll_back("tiny", reason="worse")


def test_sixteen_who_promote_at_once_lose_no_move(bucket, registry, three):
    barrier = threading.Barrier(16)

    def promoter(number: int) -> list[str]:
        mine, own, rng = Registry(registry.uri), [], random.Random(number)
        for turn in range(4):
            barrier.wait(60)
            reason = f"{number}/{turn}"
            move = mine.promote("tiny", rng.choice(three), reason=reason)
            # A move that another had made already is given as it is.
            own += [reason] * (move.reason == reason)
        return own

    with ThreadPoolExecutor(16) as pool:
        made = [reason for own in pool.map(promoter, range(16)) for reason in own]
    history = registry.history("tiny")
    assert sorted(m.reason for m in history) == sorted(made)
    assert [m.source for m in history] == [None, *(m.target for m in history[:-1])]
    assert all(m.source != m.target for m in history)
    assert registry.resolve("tiny").version == history[-1].target


def test_of_sixteen_who_expect_the_same_one_wins(bucket, registry, three):
    registry.promote("tiny", three[0], reason="start")
    barrier = threading.Barrier(16)

    def promoter(number: int) -> str:
        mine = Registry(registry.uri)
        barrier.wait(60)
        try:
            return mine.promote("tiny", three[1 + number % 2], reason=str(number), expect=three[0]).reason
        except ConflictError as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(promoter, range(16)))
    winner = registry.history("tiny")[-1]
    assert len(registry.history("tiny")) == 2
    # Who wanted what the winner did has it; the others are told who won.
    for number, text in enumerate(said):
        if three[1 + number % 2] == winner.target:
            assert text == winner.reason
        else:
            assert f"names {winner.target}" in text


def test_a_pulled_artifact_is_the_published_one(registry, folder, three, tmp_path):
    registry.promote("tiny", three[2], reason="first")
    seen = []
    path = registry.pull("tiny", progress=lambda *what: seen.append(what))
    assert files_of(path) == files_of(folder / "c")
    assert path.parent == tmp_path / "cache" / "artifacts"
    assert path.name == registry.resolve("tiny").fingerprint
    assert seen[-1][:3] == ("pull", registry.resolve("tiny").size, registry.resolve("tiny").size)
    times = {f: f.stat().st_mtime_ns for f in path.rglob("*")}
    assert registry.pull("tiny", three[2]) == path
    assert {f: f.stat().st_mtime_ns for f in path.rglob("*")} == times
    other = registry.pull("tiny", three[0])
    assert files_of(other) == files_of(folder / "a")
    assert {p.name for p in (tmp_path / "cache" / "partial").iterdir()} == set()


def test_a_copy_replaces_an_artifact_and_nothing_else(registry, folder, three, tmp_path):
    target = tmp_path / "model"
    for which, version in zip("ab", three, strict=False):
        assert registry.pull("tiny", version, to=target) == target
        assert files_of(target) == files_of(folder / which)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    for wrong in (tmp_path / "home", tmp_path / "home" / "letter.txt"):
        with pytest.raises(DataError, match="is there and is no artifact"):
            registry.pull("tiny", three[0], to=wrong)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_damaged_cache_is_fetched_again(registry, folder, three):
    path = registry.pull("tiny", three[0])
    (path / "vocabulary.json").write_bytes(b"x" * (path / "vocabulary.json").stat().st_size)
    assert files_of(registry.pull("tiny", three[0])) == files_of(folder / "a")
    (path / "calibration.json").unlink()
    (path / "added.py").write_text("boom")
    assert files_of(registry.pull("tiny", three[0])) == files_of(folder / "a")
    (path / "manifest.json").write_bytes((folder / "b" / "manifest.json").read_bytes())
    assert files_of(registry.pull("tiny", three[0])) == files_of(folder / "a")


@pytest.mark.parametrize("damage", ["content", "size", "gone", "stranger"])
def test_what_is_not_what_the_manifest_says_is_not_pulled(registry, store, three, damage, tmp_path):
    key = f"models/tiny/versions/{three[0]}/vocabulary.json"
    size = len(store.get(key))
    if damage == "gone":
        store.delete(key)
    elif damage == "stranger":
        store.put(f"models/tiny/versions/{three[0]}/rankers/cascade/tokenizer/code.py", b"boom")
    else:
        store.put(key, b"x" * (size + (damage == "size")))
    with pytest.raises(FormatError, match=r"s3://.*(vocabulary\.json|code\.py)"):
        registry.pull("tiny", three[0])
    assert not (tmp_path / "cache" / "artifacts").exists()


@pytest.mark.parametrize("name", ["../../../../evil", "/evil", "model/../../evil"])
def test_a_manifest_that_leads_astray_writes_nothing(registry, store, folder, name, tmp_path):
    manifest = json.loads((folder / "a" / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(b"boom").hexdigest(), "size": 4}
    data = json.dumps(manifest).encode()
    version = f"v-{hashlib.sha256(data).hexdigest()[:12]}"
    for file, content in files_of(folder / "a").items():
        store.put(f"models/tiny/versions/{version}/{file}", content)
    store.put(f"models/tiny/versions/{version}/manifest.json", data)
    with pytest.raises(FormatError, match="may lead outside its folder"):
        registry.pull("tiny", version)
    assert not (tmp_path / "cache").exists()
    # Nor can it be passed off under another version's name.
    store.put("models/tiny/versions/v-000000000000/manifest.json", (folder / "a" / "manifest.json").read_bytes())
    with pytest.raises(FormatError, match="not the manifest that the version is called by"):
        registry.pull("tiny", "v-000000000000")
    assert registry.versions("tiny") == []


PULL = """
import sys, threading
from pathlib import Path
from cascadexml.config import RegistrySettings
from cascadexml.registry import Registry

stop_at, first = int(sys.argv[2]), []

def progress(what, done, total, figures):
    if not first:
        first.append(done)
        print("begun", flush=True)
    if stop_at and done > stop_at:
        print("stopped", flush=True)
        threading.Event().wait()

registry = Registry(sys.argv[1], settings=RegistrySettings(workers=1))
path = registry.pull("tiny", sys.argv[3], progress=progress)
print(path, len(first), flush=True)
"""


def puller(registry, version: str, stop_at: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULL, registry.uri, str(stop_at), version]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    while (line := process.stdout.readline().strip()) != word:
        assert line, f"the process ended before it said {word}"


def test_a_killed_puller_frees_the_lock_and_the_next_goes_on(registry, folder, three, tmp_path):
    """The one that is killed holds the lock and half a file, while another waits for it."""
    size = (folder / "c" / "ballast.bin").stat().st_size
    holder = puller(registry, three[2], stop_at=size // 2)
    waiting = None
    try:
        until(holder, "stopped")
        cache = tmp_path / "cache"
        (half,) = (cache / "partial").rglob("ballast.bin")
        before = half.stat()
        assert 0 < before.st_size < size
        assert not (cache / "artifacts").exists()
        waiting = puller(registry, three[2])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(6)
        assert not (cache / "artifacts").exists()
        holder.send_signal(signal.SIGKILL)
        out, _ = waiting.communicate(timeout=60)
        path = Path(out.split()[-2])
        assert files_of(path) == files_of(folder / "c")
        # The very file that the killed one had begun.
        assert (path / "ballast.bin").stat().st_ino == before.st_ino
    finally:
        for process in filter(None, (holder, waiting)):
            process.kill()
            process.communicate()


def test_of_two_who_pull_at_once_one_fetches(registry, folder, three):
    processes = [puller(registry, three[2]) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert {tuple(files_of(Path(words[-2]))) for words in outputs} == {tuple(files_of(Path(outputs[0][-2])))}
    assert files_of(Path(outputs[0][-2])) == files_of(folder / "c")
    assert sum(int(words[-1]) for words in outputs) == 1


def test_half_a_file_of_other_content_is_not_built_upon(registry, folder, three, tmp_path):
    partial = tmp_path / "cache" / "partial" / registry.resolve("tiny", three[2]).fingerprint
    partial.mkdir(parents=True)
    (partial / "ballast.bin").write_bytes(b"0" * 1000)
    (partial / "vocabulary.json").write_bytes(b"0" * 10_000_000)
    (partial / "stranger.py").write_text("boom")
    (partial / "calibration.json").symlink_to(tmp_path / "elsewhere")
    assert files_of(registry.pull("tiny", three[2])) == files_of(folder / "c")
    assert not (tmp_path / "elsewhere").exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(registry, three, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RegistryError, match=r"cache .* cannot be used .*CASCADEXML_CACHE"):
        registry.pull("tiny", three[0])


def test_a_predictor_and_the_commands_take_a_uri(registry, folder, three, tmp_path):
    registry.promote("tiny", three[1], reason="first")
    uri = f"{registry.uri}/tiny"
    text = "Hydrogen storage in metal hydrides"
    expected = Predictor.load(folder / "b", device="cpu").predict(text)
    assert expected
    for name in (uri, f"{uri}@champion", f"{uri}@{three[1]}", registry.resolve("tiny").uri):
        assert Predictor.load(name, device="cpu").predict(text) == expected
    (tmp_path / "in.txt").write_text(text)
    predicted = cascadexml("predict", uri, "--input", tmp_path / "in.txt", "--device", "cpu")
    assert predicted.exit_code == 0
    shown = json.loads(predicted.stdout)["predictions"]
    assert [p["id"] for p in shown] == [p.id for p in expected]
    told = cascadexml("info", f"{uri}@{three[1]}", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["metrics"]["P@1"] == 0.5
    failed = cascadexml("info", f"{uri}@nobody")
    assert failed.exit_code == 1
    assert failed.stderr.count("\n") == 1


def test_a_model_is_hashed_once_when_it_is_fetched_and_once_when_it_is_loaded_again(registry, folder, three, tmp_path):
    registry.promote("tiny", three[2], reason="first")
    version = registry.resolve("tiny")
    fetched, kept = (tmp_path / "cache" / where / version.fingerprint for where in ("partial", "artifacts"))
    for place in (fetched, kept):
        with hashed() as seen:
            Predictor.load(f"{registry.uri}/tiny", device="cpu")
        # The manifest is hashed besides, to compare and to name it; so it is in memory, as it comes from the store.
        del seen.files[str(kept / "manifest.json")]
        assert seen.files == Counter(str(place / name) for name in version.files)
        assert seen.in_memory <= 2 * (kept / "manifest.json").stat().st_size


def test_one_model_has_one_fingerprint(registry, folder, three):
    registry.promote("tiny", three[0], reason="first")
    told = []
    for command in (
        ["info", str(folder / "a")],
        ["info", f"{registry.uri}/tiny@{three[0]}"],
        ["registry", "show", "tiny", "--registry", registry.uri],
    ):
        told.append(json.loads(cascadexml(*command, "--json").stdout)["fingerprint"])
    assert told == [hashlib.sha256((folder / "a" / "manifest.json").read_bytes()).hexdigest()] * 3
    assert three[0] == f"v-{told[0][:12]}"


def test_diff_tells_labels_figures_and_params(registry, small_corpus, three):
    found = registry.diff("tiny", three[0], three[1])
    assert found["metrics"] == {"P@1": [0.4321, 0.5]}
    assert found["labels"] == {"added": [], "removed": [], "renamed": {}}
    assert (found["params"], found["libraries"], found["git_revision"]) == ({}, {}, None)
    first = small_corpus.vocabulary.label(0)
    assert registry.diff("tiny", three[0], three[2])["labels"]["renamed"] == {first[0]: [first[1], "renamed"]}


def test_diff_tells_labels_that_came_and_went(registry, folder, small_corpus, tmp_path):
    vocabulary = small_corpus.vocabulary
    ids = ("new:1", *vocabulary.ids[1:])
    other = Vocabulary(ids, vocabulary.names, vocabulary.L)
    pack_again(tmp_path / "other", folder, small_corpus, vocabulary=other)
    one, two = registry.publish(folder / "a"), registry.publish(tmp_path / "other")
    registry.promote("tiny", one.version, reason="first")
    labels = registry.diff("tiny", "champion", two.version)["labels"]
    assert (labels["added"], labels["removed"], labels["renamed"]) == (["new:1"], [vocabulary.ids[0]], {})


@pytest.mark.parametrize("keep", range(5))
def test_gc_keeps_as_many_versions_as_asked(registry, three, keep):
    """Of three that no alias names."""
    removed = registry.gc("tiny", older_than=NOW, keep=keep, dry_run=True)
    assert [each.what for each in removed] == ["old version"] * max(3 - keep, 0)


def test_gc_removes_what_nobody_needs_and_nothing_else(registry, store, three):
    a, b, c = three
    for version in three:
        registry.promote("tiny", version, reason="next")
    registry.put_record("tiny", "monitoring", "batch", {"record.json": b"{}"})
    half = "models/tiny/versions/v-0123456789ab"
    store.put(f"{half}/vocabulary.json", b"half")
    begun = store.client.create_multipart_upload(Bucket=store.bucket, Key=f"{half}/ballast.bin")
    store.client.upload_part(
        Bucket=store.bucket, Key=f"{half}/ballast.bin", UploadId=begun["UploadId"], PartNumber=1, Body=b"part"
    )
    before = store.files()
    # All is younger than a day.
    assert registry.gc() == []
    assert registry.gc(keep=0, older_than=timedelta(hours=1)) == []
    expected = {("upload", f"{half}/ballast.bin"), ("incomplete version", half)}
    told = {(r.what, r.uri.removeprefix(f"s3://{store.bucket}/")) for r in registry.gc(older_than=NOW, dry_run=True)}
    assert told == expected
    assert store.files() == before
    assert len(store.client.list_multipart_uploads(Bucket=store.bucket)["Uploads"]) == 1
    done = {(r.what, r.uri.removeprefix(f"s3://{store.bucket}/")) for r in registry.gc(older_than=NOW)}
    assert done == expected
    assert store.files() == {k: v for k, v in before.items() if not k.startswith(half)}
    assert not store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads")
    # c is the champion, b what a roll-back goes to.
    removed = registry.gc(older_than=NOW, keep=0)
    assert [(r.what, r.uri) for r in removed] == [("old version", f"{registry.uri}/tiny/versions/{a}")]
    assert store.files() == {k: v for k, v in before.items() if not k.startswith((half, f"models/tiny/versions/{a}"))}
    assert registry.roll_back("tiny", reason="worse").target == b
    assert [r.uri for r in registry.gc("tiny", older_than=NOW, keep=1)] in (
        [],  # of two versions of the same second either is the newest
        [f"{registry.uri}/tiny/versions/{c}"],
    )
    assert registry.records("tiny", "monitoring") == ["batch"]
    assert registry.pull("tiny", b)


def test_a_removed_version_can_be_published_again(registry, folder, three):
    assert len(registry.gc(older_than=NOW, keep=0)) == 3
    assert registry.names() == []
    assert registry.publish(folder / "a").version == three[0]
    assert files_of(registry.pull("tiny", three[0])) == files_of(folder / "a")


@pytest.mark.parametrize("marks", ["removing.json", "tombstone"])
def test_a_gc_that_died_is_finished_by_the_next(registry, store, folder, three, marks):
    key = f"models/tiny/versions/{three[0]}"
    if marks == "tombstone":
        store.put(f"{key}/manifest.json", b'{"kind": "cascadexml.removed", "version": 1}')
    else:
        store.put(f"{key}/removing.json", b"{}")
    assert three[0] not in [v.version for v in registry.versions("tiny")]
    for act in (
        lambda: registry.publish(folder / "a"),
        lambda: registry.promote("tiny", three[0], reason="x"),
        lambda: registry.pull("tiny", three[0]),
    ):
        with pytest.raises(RegistryError, match="is being removed by a gc"):
            act()
    assert len(registry.gc(older_than=NOW)) == 1
    assert store.files(f"{key}/") == {}
    registry.publish(folder / "a")
    assert registry.pull("tiny", three[0])


def together(*acts: Callable[[], object]) -> list[object]:
    """Run acts at once; give what each returned, or the error that a user may see."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        barrier.wait(60)
        try:
            return act()
        except CascadeXMLError as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def test_gc_and_a_promotion_leave_no_alias_that_leads_nowhere(registry, folder, store):
    for turn in range(12):
        name = f"m{turn}"
        version = registry.publish(folder / "a", name).version
        wait = turn * 0.004

        def promote(name=name, version=version, wait=wait):
            time.sleep(wait)
            return registry.promote(name, version, reason="x")

        together(promote, lambda name=name: registry.gc(name, older_than=NOW, keep=0))
        aliases = registry.aliases(name)
        if aliases:
            assert files_of(registry.pull(name, to=registry._cache.root / name)) == files_of(folder / "a")
        else:
            # Where each saw the other and gave way, the version is still there.
            assert store.files(f"models/{name}/versions/{version}/") in ({}, files_of(folder / "a"))


def test_gc_and_a_publisher_leave_no_version_that_is_not_whole(registry, store, folder):
    """Of an attempt that was given up longer ago than the limit, and is now taken up again."""
    names = [f"m{turn}" for turn in range(8)]
    limit = timedelta(seconds=2)
    for name in names:
        store.delete(f"models/{name}/versions/{registry.publish(folder / 'a', name).version}/manifest.json")
    time.sleep(3.1)
    for turn, name in enumerate(names):

        def collect(name=name, wait=turn * 0.01):
            time.sleep(wait)
            return registry.gc(name, older_than=limit)

        published, _ = together(lambda name=name: registry.publish(folder / "a", name), collect)
        if isinstance(published, CascadeXMLError):
            published = registry.publish(folder / "a", name)
        assert files_of(registry.pull(name, published.version)) == files_of(folder / "a")
        assert store.files(f"models/{name}/versions/{published.version}/") == files_of(folder / "a")


def test_records_are_whole_immutable_and_in_order(registry, store, tmp_path):
    (tmp_path / "report.html").write_text("<p>")
    files = {"record.json": b'{"verdict": "drift"}', "report.html": tmp_path / "report.html", "data/x.bin": b"x"}
    uri = registry.put_record("tiny", "monitoring", "batch-1", files)
    assert uri == f"{registry.uri}/tiny/records/monitoring/batch-1"
    assert registry.put_record("tiny", "monitoring", "batch-1", files) == uri
    assert registry.read_record("tiny", "monitoring", "batch-1") == b'{"verdict": "drift"}'
    assert registry.read_record("tiny", "monitoring", "batch-1", "report.html") == b"<p>"
    for other in ({"record.json": b"{}"}, {**files, "data/x.bin": b"y"}, {**files, "more": b""}):
        with pytest.raises(DataError, match="holds another record"):
            registry.put_record("tiny", "monitoring", "batch-1", other)
    assert set(store.files("models/tiny/records/monitoring/batch-1/")) == set(files)
    assert registry.read_record("tiny", "monitoring", "batch-1", "data/x.bin") == b"x"
    for key in ("batch-3", "batch-2"):
        time.sleep(1.1)
        registry.put_record("tiny", "monitoring", key, {"record.json": b"{}"})
    assert registry.records("tiny", "monitoring") == ["batch-1", "batch-3", "batch-2"]
    assert registry.records("tiny", "judgements") == []
    with pytest.raises(DataError, match=r"needs a record\.json"):
        registry.put_record("tiny", "monitoring", "batch-4", {"x": b""})
    for bad in ("../x", "/x", "a//b"):
        with pytest.raises(DataError, match="cannot hold"):
            registry.put_record("tiny", "monitoring", "batch-4", {"record.json": b"", bad: b""})
    for key in ("", "a/b", "..", "ä"):
        with pytest.raises(DataError, match="cannot be a key"):
            registry.put_record("tiny", "monitoring", key, {"record.json": b""})
    with pytest.raises(NotFoundError):
        registry.read_record("tiny", "monitoring", "nothing")


def test_a_record_that_broke_off_is_not_there_and_can_be_written_anew(registry, store):
    store.put("models/tiny/records/monitoring/half/report.html", b"old")
    assert registry.records("tiny", "monitoring") == []
    with pytest.raises(NotFoundError, match="no complete record"):
        registry.read_record("tiny", "monitoring", "half", "report.html")
    registry.put_record("tiny", "monitoring", "half", {"record.json": b"{}", "report.html": b"new"})
    assert registry.read_record("tiny", "monitoring", "half", "report.html") == b"new"


@pytest.fixture
def keys(tmp_path) -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(private), str(public)


def test_what_is_not_signed_is_refused_where_signatures_are_asked_for(
    registry, store, folder, keys, monkeypatch, tmp_path
):
    private, public = keys
    signing = Registry(registry.uri, settings=RegistrySettings(sign_key=private))
    reading = Registry(registry.uri, settings=RegistrySettings(verify_key=public))
    unsigned = registry.publish(folder / "a").version
    for act in (
        lambda: reading.resolve("tiny", unsigned),
        lambda: reading.pull("tiny", unsigned),
        lambda: reading.promote("tiny", unsigned, reason="x"),
        lambda: reading.publish(folder / "b"),
    ):
        with pytest.raises(FormatError, match="is not signed"):
            act()
    assert reading.versions("tiny") == []
    assert not (tmp_path / "cache").exists()
    signed = signing.publish(folder / "b").version
    signing.promote("tiny", signed, reason="first")
    assert files_of(reading.pull("tiny")) == files_of(folder / "b")
    monkeypatch.setenv("CASCADEXML_VERIFY_KEY", public)
    assert Predictor.load(f"{registry.uri}/tiny", device="cpu")
    with pytest.raises(FormatError, match="is not signed"):
        Predictor.load(f"{registry.uri}/tiny@{unsigned}", device="cpu")
    # A version is signed later by publishing it again.
    assert signing.publish(folder / "a").version == unsigned
    assert reading.resolve("tiny", unsigned)
    store.put(
        f"models/tiny/versions/{unsigned}/manifest.json.sig",
        store.get(f"models/tiny/versions/{signed}/manifest.json.sig"),
    )
    with pytest.raises(FormatError, match="was not signed by the owner"):
        reading.pull("tiny", unsigned)


def test_versions_are_encrypted_and_retained_when_asked(s3_server, registry, folder, tmp_path):
    client = s3_server.client()
    bucket = f"locked-{secrets.token_hex(8)}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    locked = Registry(f"s3://{bucket}/models", settings=RegistrySettings(object_lock_days=1, encryption="AES256"))
    version = locked.publish(folder / "c")
    locked.promote("tiny", version.version, reason="first")
    raw = Raw(client, bucket)
    for file in ("manifest.json", "vocabulary.json", "ballast.bin"):
        head = raw.head(f"models/tiny/versions/{version.version}/{file}")
        assert head["ObjectLockMode"] == "GOVERNANCE"
        assert head["ServerSideEncryption"] == "AES256"
        key = {"Bucket": bucket, "Key": f"models/tiny/versions/{version.version}/{file}"}
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(**key, VersionId=head["VersionId"])
    assert "ObjectLockMode" not in raw.head("models/tiny/aliases/champion.json")
    assert files_of(locked.pull("tiny")) == files_of(folder / "c")
    # On a bucket with versions a gc hides a version, and it can be published again.
    locked.promote("tiny", locked.publish(folder / "a").version, reason="second")
    locked.promote("tiny", locked.publish(folder / "b").version, reason="third")
    assert [r.what for r in locked.gc(older_than=NOW, keep=0)] == ["old version"]
    assert locked.publish(folder / "c").version == version.version
    assert files_of(locked.pull("tiny", version.version)) == files_of(folder / "c")


def test_the_command_line(registry, folder, monkeypatch, tmp_path):
    def run(*arguments: object, code: int = 0) -> str:
        found = cascadexml("registry", *arguments)
        assert found.exit_code == code, found.stderr
        return found.stdout if code == 0 else found.stderr

    assert "no registry is named" in run("list", code=1)
    (tmp_path / "params.yaml").write_text(f"registry: {{uri: {registry.uri}}}")
    assert run("list", "--params", tmp_path / "params.yaml", "--json") == "{}\n"
    monkeypatch.setenv("CASCADEXML_REGISTRY", registry.uri)
    a, b = (json.loads(run("publish", folder / which, "--json"))["version"] for which in "ab")
    assert run("publish", folder / "a") == f"published tiny {a}\n"
    assert run("promote", "tiny", a, "--reason", "first", "--by", "Ada") == f"tiny@champion: new → {a}\n"
    assert run("promote", "tiny", a, "--reason", "again") == f"tiny@champion names {a} already\n"
    assert "needs a reason" in run("promote", "tiny", b, "--reason", " ", code=1)
    assert "--reason" in run("promote", "tiny", b, code=2)
    assert "expected no such alias" in run("promote", "tiny", b, "--reason", "x", "--expect", "none", code=1)
    run("promote", "tiny", b, "--reason", "to judge", "--alias", "challenger", "--expect", "none")
    moved = json.loads(run("promote", "tiny", "challenger", "--reason", "won", "--expect", a, "--json"))
    assert (moved["target"], moved["moved"]) == (b, True)
    assert json.loads(run("aliases", "tiny", "--json")) == {"champion": b, "challenger": b}
    assert run("rollback", "tiny", "--reason", "worse") == f"tiny@champion: {b} → {a}\n"
    history = run("history", "tiny").splitlines()
    assert [line.split()[2] for line in history[1:]] == ["rollback", "promote", "promote"]
    assert "Ada" in history[-1] and "first" in history[-1]
    listed = {v["version"]: v["aliases"] for v in json.loads(run("list", "tiny", "--json"))}
    assert listed == {a: ["champion"], b: ["challenger"]}
    assert json.loads(run("list", "--json")) == {"tiny": {"champion": a, "challenger": b}}
    assert a in run("list", "tiny") and "tiny" in run("list")
    assert json.loads(run("show", "tiny", "--json"))["meta"]["name"] == "tiny"
    assert b in run("show", "tiny@challenger")
    assert "P@1" in run("diff", "tiny", "champion", "challenger")
    assert json.loads(run("diff", "tiny", a, b, "--json"))["metrics"] == {"P@1": [0.4321, 0.5]}
    assert files_of(Path(run("pull", "tiny@challenger").strip())) == files_of(folder / "b")
    run("pull", "tiny", "--to", tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(folder / "a")
    assert "has no versions of 'nothing'" in run("list", "nothing", code=1)
    assert "is no span of time" in run("gc", "--older-than", "soon", code=2)
    run("promote", "tiny", b, "--reason", "only one", "--alias", "challenger")
    assert json.loads(run("gc", "--older-than", "0m", "--keep", "0", "--dry-run", "--json")) == []
    assert "removed" in run("gc", "--older-than", "1d")
