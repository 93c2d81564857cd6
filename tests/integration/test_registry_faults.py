"""What the registry promises while processes are killed, connections break and rivals race.

Everything runs against a real S3 server; a proxy in front of it breaks what the server itself would not. `make soak`
kills at every request and races for many rounds, where `make test` takes some of them.
"""

import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.retries.standard import ExponentialBackoff

from cascadexml.errors import CascadeXMLError, ConflictError, RegistryError
from cascadexml.registry import Registry
from tests.conftest import SeaweedFS
from tests.support.fault_proxy import Fault, Kind, Request, fault_proxy
from tests.support.registry_processes import result_of
from tests.support.registry_site import HASTY, NOW, Site, assert_cached, clear_error, files_of, oldest_first

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.support.registry_fixtures"]

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "50"))
"""Races that `make soak` starts."""
SOME_OR_EVERY = pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["some", "every"]
)


@pytest.fixture(scope="module", autouse=True)
def _short_pauses() -> Iterator[None]:
    """Between attempts boto waits up to 1, 2, 4 … seconds: here a tenth of that, which is waiting all the same."""
    pause = ExponentialBackoff.delay_amount
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: pause(self, context) / 10)
        yield


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def manifests(site: Site, name: str) -> dict[str, bytes]:
    """The manifests below a model's versions, as the server has them."""
    found = [key for key in site.keys(f"{name}/versions/") if key.count("/") == 4 and key.endswith("/manifest.json")]
    return {key.split("/")[3]: site.read(key) for key in found}


def assert_invisible(registry: Registry, name: str) -> None:
    assert registry.versions(name) == []
    for read in (registry.resolve, registry.pull):
        with pytest.raises(RegistryError):
            read(name)


def assert_whole(registry: Registry, name: str, version: str, artifact: Path, to: Path) -> None:
    """The version is listed and resolved, and what is pulled is the artifact byte for byte."""
    assert [found.version for found in registry.versions(name)] == [version]
    assert registry.resolve(name, version).version == version
    registry.pull(name, version, to=to)
    assert files_of(to) == files_of(artifact)
    shutil.rmtree(to)


class Killer:
    """Kills a process at the n-th request that a pattern of paths matches; `done` is set then."""

    def __init__(self, n: int, pattern: str) -> None:
        self.left, self.pattern = n, pattern
        self.process: Any = None
        self.done = threading.Event()

    def __call__(self, request: Request) -> None:
        if not re.search(self.pattern, request.path):
            return
        self.left -= 1
        if self.left == 0:
            while self.process is None or self.process.pid is None:
                time.sleep(0.001)
            os.kill(self.process.pid, signal.SIGKILL)
            self.done.set()


def moments_to_kill(requests: int, every: bool) -> list[int]:
    """All of so many requests, from 1; or some: the first, four on the way, and those at the end around the commit."""
    some = {1, *(requests * part // 5 for part in range(1, 5)), *range(requests - 3, requests + 1)}
    return list(range(1, requests + 1)) if every else sorted(n for n in some if n > 0)


@SOME_OR_EVERY
@pytest.mark.parametrize(
    ("moment", "kind", "pattern", "workers"),
    [
        ("forwarded", "small", "", 1),
        ("answered", "small", "", 4),
        ("forwarded", "big", "uploads|uploadId", 1),
        ("answered", "big", "uploads|uploadId", 4),
    ],
)
def test_a_publisher_killed_at_any_request_leaves_nothing_that_a_reader_sees(
    site, name, proxy, artifacts, big, moment, kind, pattern, workers, every
):
    """Killed when the store has served the n-th request and the publisher does not know, or has just been told."""
    artifact = big if kind == "big" else artifacts[0]
    reader = site.connect()
    # Nobody is killed the first time: that counts the requests.
    proxy.break_with()
    _, answer = site.start(proxy.endpoint, "publish", artifact, f"{name}-0", workers=workers)
    assert result_of(answer)[0] == "ok"
    requests = sum(re.search(pattern, request.path) is not None for request in proxy.log)
    assert requests >= (4 if kind == "big" else len(files_of(artifact)))
    whole = 0
    kills = moments_to_kill(requests, every)
    for n in kills:
        model = f"{name}-{n}"
        killer = Killer(n, pattern)
        proxy.break_with()
        setattr(proxy, moment, killer)
        process, answer = site.start(proxy.endpoint, "publish", artifact, model, workers=workers)
        killer.process = process
        result_of(answer)
        process.join(30)
        setattr(proxy, moment, None)
        assert killer.done.is_set()
        assert process.exitcode == -signal.SIGKILL
        # What other threads of it had sent off is still served.
        wait_until(lambda: all(request.status for request in proxy.log))
        found = manifests(site, model)
        if found:
            # The commit point was reached: then everything is there.
            ((version, content),) = found.items()
            assert content == (artifact / "manifest.json").read_bytes()
            assert_whole(reader, model, version, artifact, site.folder / "copy")
            reader.gc(model, older_than=NOW)
            whole += 1
        else:
            assert_invisible(reader, model)
            if n % 2:
                reader.gc(model, older_than=NOW)
                assert site.keys(f"{model}/") == {}
                assert [key for key in site.uploads() if f"/{model}/" in key] == []
        version = reader.publish(artifact, model).version
        assert_whole(reader, model, version, artifact, site.folder / "copy")
        reader.gc(model, older_than=NOW)
        assert len(site.keys(f"{model}/")) == len(files_of(artifact))
        assert [key for key in site.uploads() if f"/{model}/" in key] == []
    assert whole < len(kills) / 2
    if kind == "small":
        assert whole > 0


@pytest.fixture(scope="module")
def published(site, artifacts) -> list[str]:
    """Versions of the sixteen artifacts in the registry, all of the model "tiny"."""
    return [site.connect().publish(path, "tiny").version for path in artifacts]


@pytest.fixture
def alias(name) -> str:
    """An alias that nobody has used yet; the cache is empty."""
    return f"alias-of-{name}"


def all_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call gave or the library's error that it raised; a barrier starts them together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except CascadeXMLError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.parametrize("rounds", [5, pytest.param(ROUNDS, marks=pytest.mark.soak)])
def test_of_sixteen_promoters_who_expect_the_same_one_wins_each_round(site, published, alias, rounds):
    clients = [site.connect(client=i) for i in range(16)]
    now = None
    for n in range(rounds):
        # Two targets, so that losers find the alias both at another version than theirs and at their own.
        targets = [published[(2 * n + i % 2) % 16] for i in range(16)]
        results = all_at_once(
            [
                partial(client.promote, "tiny", target, alias, reason=f"round {n}", by=f"{n}-{i}", expect=now)
                for i, (client, target) in enumerate(zip(clients, targets, strict=True))
            ]
        )
        (move,) = [result for i, result in enumerate(results) if getattr(result, "by", None) == f"{n}-{i}"]
        assert (move.source, move.reason) == (now, f"round {n}")
        # Who wanted the same is told of the winner's move; for all others the race is lost.
        for target, result in zip(targets, results, strict=True):
            assert result == move if target == move.target else isinstance(result, ConflictError)
        now = move.target
        assert site.connect().resolve("tiny", alias).version == now
    history = oldest_first(site.connect().history("tiny", alias))
    assert [move.reason for move in history] == [f"round {n}" for n in range(rounds)]


@pytest.mark.parametrize("race", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, ROUNDS))])
def test_of_sixteen_promoters_who_expect_nothing_none_is_lost(site, published, alias, race):
    clients = [site.connect(client=i) for i in range(16)]
    results = all_at_once(
        [
            partial(client.promote, "tiny", version, alias, reason="a race", by=str(i))
            for i, (client, version) in enumerate(zip(clients, published, strict=True))
        ]
    )
    assert [getattr(result, "target", result) for result in results] == published
    history = oldest_first(site.connect().history("tiny", alias))
    assert {move.id for move in history} == {result.id for result in results}
    assert Counter(move.by for move in history) == Counter(map(str, range(16)))
    assert [move.source for move in history] == [None, *(move.target for move in history[:-1])]
    assert site.connect().aliases("tiny")[alias] == history[-1].target


READ, WRITE = "GET|HEAD", "PUT|POST|DELETE"
TRANSIENT: dict[str, list[tuple[Kind, str]]] = {
    "silence": [("black hole", READ), ("lost answer", WRITE)],
    "lost requests": [("reset before", READ), ("cut request", WRITE)],
    "lost answers": [("reset after", "")],
    "broken answers": [("reset inside", "")],
    "short answers": [("truncate", "")],
    "a busy server": [("slow down", "")],
    "a failing server": [("server error", "")],
    "a slow server": [("delay", "")],
    "flipped answers": [("flip answer", "")],
    "flipped requests": [("flip request", "")],
}


@pytest.mark.parametrize("trouble", TRANSIENT)
def test_every_request_may_fail_once(site, published, artifacts, name, alias, proxy, trouble):
    """Each distinct request of a publication, a promotion, a pull and a roll-back is hit the first time it comes."""
    good = site.connect()
    first, second = published[:2]
    good.promote("tiny", first, alias, reason="first")
    broken = site.connect(proxy.endpoint, **HASTY)

    def hit(call: Callable[[], Any]) -> Any:
        proxy.break_with(*(Fault(kind, method, each=True, seconds=0.2) for kind, method in TRANSIENT[trouble]))
        try:
            found = call()
        except CascadeXMLError as error:
            # A flipped bit may also be refused: what must not be is that it is taken for true.
            assert trouble.startswith("flip"), error
            clear_error(error, site)
            proxy.break_with()
            return call()
        assert any(request.fault for request in proxy.log)
        return found

    assert hit(lambda: broken.publish(artifacts[1], name)).version == second
    move = hit(lambda: broken.promote("tiny", second, alias, reason="second", expect=first))
    assert (move.source, move.target) == (first, second)
    pulled = hit(lambda: broken.pull("tiny", alias))
    assert files_of(pulled) == files_of(artifacts[1])
    assert_cached(site, [artifacts[1]])
    reasons = ["first", "second"]
    if not trouble.startswith("flip"):
        back = hit(lambda: broken.roll_back("tiny", alias, reason="back"))
        assert (back.source, back.target) == (second, first)
        reasons.append("back")
    assert [move.reason for move in oldest_first(good.history("tiny", alias))] == reasons
    assert_whole(good, name, second, artifacts[1], site.folder / "copy")


LASTING = ["reset before", "truncate", "black hole", "slow down", "flip answer"]


@pytest.mark.parametrize("kind", LASTING)
@pytest.mark.parametrize("operation", ["publish", "promote", "pull"])
def test_a_fault_that_lasts_is_one_clear_error_and_nothing_is_half_done(
    site, published, artifacts, name, alias, proxy, operation, kind
):
    good = site.connect()
    first, second = published[:2]
    good.promote("tiny", first, alias, reason="first")
    broken = site.connect(proxy.endpoint, **HASTY | {"attempts": 2})
    calls: dict[str, Callable[[], Any]] = {
        "publish": lambda: broken.publish(artifacts[0], name),
        "promote": lambda: broken.promote("tiny", second, alias, reason="second", expect=first),
        "pull": lambda: broken.pull("tiny", alias),
    }
    proxy.break_with(Fault(kind, times=None))
    # A hang would end at the test's own limit.
    with pytest.raises(CascadeXMLError) as caught:
        calls[operation]()
    clear_error(caught.value, site)
    assert good.versions(name) == []
    assert good.aliases("tiny")[alias] == first
    assert_cached(site, [])

    proxy.break_with()
    calls[operation]()
    assert [version.version for version in good.versions(name)] == [first][operation != "publish" :]
    assert good.aliases("tiny")[alias] == (second if operation == "promote" else first)
    assert_cached(site, [artifacts[0]][operation != "pull" :])


@pytest.mark.parametrize("kind", ["reset after", "lost answer", "server error"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_move_whose_answers_are_lost_is_made_once_and_known(site, published, alias, proxy, kind, exists):
    """Every write of the alias is served and never answered: the client learns from the alias that it is made."""
    good = site.connect()
    first, second = published[:2]
    if exists:
        good.promote("tiny", first, alias, reason="first")
    broken = site.connect(proxy.endpoint, **HASTY)
    proxy.break_with(Fault(kind, "PUT", r"/aliases/", times=None))
    with suppress(CascadeXMLError):
        broken.promote("tiny", second, alias, reason="second")
    history = oldest_first(good.history("tiny", alias))
    assert [move.reason for move in history] == ["first", "second"][not exists :]
    assert good.resolve("tiny", alias).version == second


@pytest.mark.parametrize("kind", ["reset after", "lost answer", "server error"])
def test_a_roll_back_whose_answer_is_lost_is_made_once_and_told(site, published, alias, proxy, kind):
    """The write is tried again and refused, because it was made: that is no conflict with others."""
    good = site.connect()
    first, second = published[:2]
    for version, reason in ((first, "first"), (second, "second")):
        good.promote("tiny", version, alias, reason=reason)
    proxy.break_with(Fault(kind, "PUT", r"/aliases/"))
    assert site.connect(proxy.endpoint, **HASTY).roll_back("tiny", alias, reason="back").target == first
    assert [move.reason for move in oldest_first(good.history("tiny", alias))] == ["first", "second", "back"]
    assert good.resolve("tiny", alias).version == first


@pytest.mark.parametrize("kind", ["reset after", "lost answer", "server error"])
def test_a_manifest_whose_answers_are_lost_is_whole_or_not_there(site, artifacts, name, proxy, kind):
    good = site.connect()
    proxy.break_with(Fault(kind, "PUT", r"/v-[0-9a-f]+/manifest\.json$", times=None))
    with suppress(CascadeXMLError):
        site.connect(proxy.endpoint, **HASTY).publish(artifacts[0], name)
    ((version, content),) = manifests(site, name).items()
    assert content == (artifacts[0] / "manifest.json").read_bytes()
    assert_whole(good, name, version, artifacts[0], site.folder / "copy")
    assert good.publish(artifacts[0], name).version == version


def test_gc_spares_what_a_publisher_takes_up_while_it_is_swept(site, name, proxy):
    """Given up longer ago than the limit; a file is written to it when gc has put its tombstone and looks once more."""
    version = f"models/{name}/versions/v-0123456789ab"
    site.write(f"{version}/vocabulary.json", b"begun")
    time.sleep(3.1)

    def go_on(request):
        if request.method == "PUT" and "/manifest.json" in request.path:
            site.write(f"{version}/model.safetensors", b"gone on with")

    proxy.break_with()
    proxy.forwarded = go_on
    try:
        assert site.connect(proxy.endpoint).gc(name, older_than=timedelta(seconds=2)) == []
    finally:
        proxy.forwarded = None
    assert sorted(site.keys(name)) == [f"{version}/model.safetensors", f"{version}/vocabulary.json"]


@pytest.mark.parametrize("kind", ["reset before", "reset after", "lost answer", "cut request", "slow down"])
def test_every_request_of_an_upload_in_parts_may_fail_once(site, big, small_parts, name, proxy, kind):
    proxy.break_with(Fault(kind, "PUT|POST|GET", "uploads|uploadId=|versions.*vocabulary", each=True))
    version = site.connect(proxy.endpoint, **HASTY).publish(big, name).version
    assert {request.method for request in proxy.log if request.fault} >= {"PUT", "POST"}
    good = site.connect()
    assert_whole(good, name, version, big, site.folder / "copy")
    # An upload whose beginning was never answered is known to nobody but the store.
    good.gc(name, older_than=NOW)
    assert [key for key in site.uploads() if f"/{name}/" in key] == []
    assert_whole(good, name, version, big, site.folder / "copy")


def test_a_publication_that_broke_off_goes_on_where_it_stopped(site, big, small_parts, name, proxy):
    """The large file came through before the store went away: it does not go up a second time."""
    broken = site.connect(proxy.endpoint, **HASTY)
    proxy.break_with(Fault("reset before", "PUT", r"/v-[0-9a-f]+/manifest\.json$", times=None))
    with pytest.raises(RegistryError) as caught:
        broken.publish(big, name)
    clear_error(caught.value, site)
    assert sum(request.body for request in proxy.log) > 6_000_000
    proxy.break_with()
    version = broken.publish(big, name).version
    assert sum(request.body for request in proxy.log) < 100_000
    assert_whole(site.connect(), name, version, big, site.folder / "copy")


def partly_here(site: Site, size: int) -> bool:
    """Whether a file of at least so many bytes is in the cache, though no artifact is."""
    return any(path.stat().st_size >= size for path in site.cache.rglob("*") if path.is_file())


def test_a_pull_goes_on_where_a_killed_one_stopped(site, big, name, proxy):
    version = site.connect().publish(big, name).version
    stall = Fault("stall", "GET", r"vocabulary\.json$", at=4_000_000)
    proxy.break_with(stall)
    puller, answer = site.start(proxy.endpoint, "pull", name, version)
    wait_until(lambda: partly_here(site, 1_000_000))
    os.kill(puller.pid, signal.SIGKILL)
    assert result_of(answer) == ("lost", "")
    assert_cached(site, [])
    proxy.break_with()
    site.connect(proxy.endpoint).pull(name, version)
    assert_cached(site, [big])
    (request,) = [request for request in proxy.log if request.path.endswith("vocabulary.json")]
    start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert start >= 1_000_000
    assert request.answered == (big / "vocabulary.json").stat().st_size - start


def test_of_several_pullers_one_fetches_and_the_others_wait(site, published, artifacts, name, proxy):
    proxy.break_with(Fault("delay", "GET", r"\.safetensors$", times=None, seconds=0.5))
    pullers = [site.start(proxy.endpoint, "pull", "tiny", published[0]) for _ in range(3)]
    results = [result_of(answer) for _, answer in pullers]
    assert {kind for kind, _ in results} == {"ok"}, results
    assert all(files_of(Path(path)) == files_of(artifacts[0]) for _, path in results)
    assert_cached(site, [artifacts[0]])
    fetched = Counter(request.path for request in proxy.log if "?" not in request.path)
    assert {path.partition(f"{published[0]}/")[2]: n for path, n in fetched.items()} == {
        file: 3 if file == "manifest.json" else 1 for file in files_of(artifacts[0])
    }


def test_a_puller_that_waits_takes_over_when_the_other_is_killed(site, published, artifacts, name, proxy):
    proxy.break_with(Fault("black hole", "GET", r"model\.safetensors$", times=1))
    first, lost = site.start(proxy.endpoint, "pull", "tiny", published[0])
    wait_until(lambda: any(request.fault for request in proxy.log))
    _, answer = site.start(proxy.endpoint, "pull", "tiny", published[0])
    wait_until(lambda: sum(request.path.endswith(f"{published[0]}/manifest.json") for request in proxy.log) == 2)
    os.kill(first.pid, signal.SIGKILL)
    assert result_of(lost) == ("lost", "")
    kind, path = result_of(answer)
    assert (kind, files_of(Path(path))) == ("ok", files_of(artifacts[0]))


def is_readable(site: Site, key: str) -> bool:
    try:
        return bool(site.read(key))
    except (ClientError, BotoCoreError):
        return False


@pytest.fixture
def own_store(tmp_path) -> Iterator[SeaweedFS]:
    store = SeaweedFS(tmp_path / "store")
    try:
        store.start()
        yield store
    finally:
        store.kill()


WRITES = [
    ("PUT", r"/v-[0-9a-f]+/manifest\.json$"),
    ("PUT", r"partNumber=2"),
    ("PUT", r"calibration\.json$"),
    ("POST", r"uploadId="),
]


@SOME_OR_EVERY
def test_a_store_killed_while_it_is_written_to_keeps_what_was_published(
    own_store, artifacts, big, small_parts, tmp_path, monkeypatch, every
):
    site = Site(own_store.server, own_store.server.make_bucket(), tmp_path / "site", monkeypatch.setenv)
    good = site.connect()
    first = good.publish(artifacts[0], "tiny").version
    good.promote("tiny", first, reason="first")
    with fault_proxy(own_store.server.endpoint) as proxy:
        broken = site.connect(proxy.endpoint, **HASTY | {"attempts": 2})
        for n, (method, pattern) in enumerate(WRITES if every else WRITES[:2]):
            name = f"interrupted-{n}"

            def kill(request: Request, method: str = method, pattern: str = pattern) -> None:
                if request.method == method and re.search(pattern, request.path):
                    own_store.kill()

            proxy.forwarded = kill
            with suppress(CascadeXMLError):
                broken.publish(big, name)
                assert "manifest" in pattern
            proxy.forwarded = None
            # On a slow machine the publication may have given up before the request that was to kill the store.
            own_store.kill()
            own_store.start()
            # It says that it is healthy before it has found its own volumes again.
            wait_until(lambda: is_readable(site, f"models/tiny/versions/{first}/manifest.json"))
            shutil.rmtree(site.cache, ignore_errors=True)
            assert_whole(good, "tiny", first, artifacts[0], site.folder / "copy")
            assert [move.reason for move in good.history("tiny")] == ["first"]
            if found := manifests(site, name):
                assert "manifest" in pattern
                assert list(found.values()) == [(big / "manifest.json").read_bytes()]
            else:
                assert_invisible(good, name)
            version = good.publish(big, name).version
            assert_whole(good, name, version, big, site.folder / "copy")
