"""The flows as a team meets them: real Prefect server and worker, real S3 store, runs started through the server."""

import json
import lzma
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cascadexml.artifact import open_artifact
from cascadexml.registry import Registry
from tests.integration.conftest import MODEL, REPO, Project, environment, registry_of
from tests.integration.prefect_api import PrefectApi, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def api(finished: tuple[Project, str]) -> PrefectApi:
    """The server that `make run` started."""
    return PrefectApi.of(environment(finished[0]))


@pytest.fixture(scope="module")
def project(finished: tuple[Project, str]) -> Iterator[Project]:
    """The finished project; what flows change in it is taken back at the end."""
    yield finished[0]
    finished[0].sh("git checkout --quiet . && dvc checkout --quiet --force")


@pytest.fixture(scope="module")
def registry(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_of(project, tmp_path_factory.mktemp("cache")) as opened:
        yield opened


def records(registry: Registry, kind: str) -> dict[str, Any]:
    """All complete records of a kind, by key."""
    return {key: json.loads(registry.read_record(MODEL, kind, key)) for key in registry.records(MODEL, kind)}


def incoming(period: str, n: int, field: str = "text") -> Iterator[dict[str, Any]]:
    """The first n records of a batch that came after the training's years, with `field` as their text."""
    file = REPO / "data" / "sample" / "incoming" / f"{period}.jsonl.xz"
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in islice(lines, n):
            record = json.loads(line)
            yield {**record, "text": record[field]}


def write_batch(path: Path, batch: Iterator[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in batch), encoding="utf-8")
    return str(path)


def champion(registry: Registry) -> str:
    return registry.aliases(MODEL)["champion"]


def assert_refitted(old: Path, new: Path) -> None:
    """The new artifact has the old one's encoder, rows for more labels, and other classifiers over words."""
    networks = [load_file(next(path.rglob("network/*.safetensors"))) for path in (old, new)]
    encoders = [{name: each for name, each in network.items() if name.startswith("encoder.")} for network in networks]
    assert encoders[0] and encoders[0].keys() == encoders[1].keys()
    assert all(np.array_equal(encoders[0][name], encoders[1][name]) for name in encoders[0])
    assert open_artifact(new).meta["labels"] > open_artifact(old).meta["labels"]
    linear = [next(path.rglob("linear/weights.safetensors")).read_bytes() for path in (old, new)]
    assert linear[0] != linear[1]


def test_make_run_published_through_the_pipeline_flow(
    finished: tuple[Project, str], api: PrefectApi, registry: Registry
) -> None:
    project, printed = finished
    flow = api.post("flow_runs/filter", {"flows": {"name": {"any_": ["pipeline"]}}})[0]
    assert flow["state"]["type"] == "COMPLETED"
    assert f"s3://cascadexml/models/{MODEL}@{champion(registry)}" in printed
    artifacts = api.artifacts(flow["id"])
    metrics = json.loads((project.root / "data" / "reports" / "metrics.json").read_text())
    assert f"{100 * metrics['test']['P@1']:.2f}" in json.dumps(artifacts["metrics"])
    assert "popularity" in json.dumps(artifacts["metrics"])
    assert champion(registry) in artifacts["published-version"]
    assert "data_docs" in artifacts["reports"]
    assert "train" in api.log(flow["id"]) and "loss" in api.log(flow["id"])


def test_every_stages_outs_are_in_the_remote(project: Project) -> None:
    project.sh("set -a; . .local/environment; set +a; dvc status --cloud | grep -q 'in sync'")


def test_a_second_pipeline_run_publishes_nothing_new(project: Project, api: PrefectApi, registry: Registry) -> None:
    before = registry.versions(MODEL), registry.history(MODEL)
    run = api.start("pipeline/pipeline")
    assert api.wait(run)["type"] == "COMPLETED", api.log(run)[-3000:]
    assert (registry.versions(MODEL), registry.history(MODEL)) == before


def test_a_poisoned_batch_is_quarantined_and_the_champion_serves_on(
    project: Project, api: PrefectApi, registry: Registry
) -> None:
    before = champion(registry), len(api.runs("retraining/retraining"))
    garbage = ({**r, "text": "" if i % 5 < 2 else r["text"]} for i, r in enumerate(incoming("2018-2019", 100)))
    run = api.start("monitoring/monitoring", batch=write_batch(project.root / "own-batches" / "garbage.jsonl", garbage))
    state = api.wait(run)
    assert (state["type"], state["name"]) == ("COMPLETED", "Quarantined"), api.log(run)[-3000:]
    assert not any(key.startswith("garbage") for key in records(registry, "batches"))
    verdict = next(v for key, v in records(registry, "monitoring").items() if key.startswith("garbage"))
    assert verdict["reasons"]
    assert (champion(registry), len(api.runs("retraining/retraining"))) == before


@pytest.mark.timeout(1800)
def test_drift_starts_a_retraining_whose_challenger_is_judged(
    project: Project, api: PrefectApi, registry: Registry
) -> None:
    """Without a hand on it: from a drifted batch to a verdict on a new version, and the champion answers."""
    before = champion(registry)
    done = {run["id"] for run in api.runs("retraining/retraining")}
    # Titles alone are a tenth as long as the texts: a drift that no small sample hides.
    batch = write_batch(project.root / "own-batches" / "2022-2025.jsonl", incoming("2022-2025", 120, "title"))
    run = api.start("monitoring/monitoring", batch=batch)
    state = api.wait(run)
    assert (state["type"], state["name"]) == ("COMPLETED", "Drift"), api.log(run)[-3000:]
    (retraining,) = until(
        lambda: [each for each in api.runs("retraining/retraining") if each["id"] not in done],
        "the event started no retraining",
    )
    key = next(key for key in records(registry, "batches") if key.startswith("2022-2025"))
    assert retraining["parameters"]["batch"] == key
    # Two challengers, each a whole pipeline: ten minutes where other tests keep the machine busy.
    state = api.wait(retraining["id"], 1200)
    assert state["type"] == "COMPLETED" and state["name"] in ("Promoted", "ChampionStays"), api.log(retraining["id"])
    tried = {r["challenger"]: r for r in records(registry, "retrainings").values() if r["batch"] == key}
    outcome = tried.get("warm", tried["refit"])
    # As params.yaml has it, a refit is tried first, and the network trains only where that did not win.
    assert set(tried) == ({"refit"} if tried["refit"]["promoted"] else {"refit", "warm"})
    assert outcome["promoted"] == (state["name"] == "Promoted")
    assert champion(registry) == (outcome["version"] if outcome["promoted"] else before)
    for each in tried.values():
        kept = project.root / "data/reports/retraining" / each["key"]
        assert (kept / "metrics.json").is_file() and (kept / "judgement" / "judgement.md").is_file()
        assert not (project.root / "data/workspaces" / each["key"]).exists()
        judged = f"{each['version']}-against-{before}"
        (judgement,) = [key for key in registry.records(MODEL, "judgements") if key.startswith(judged)]
        assert json.loads(registry.read_record(MODEL, "judgements", judgement, "judgement.json"))["confidence"] == 0.975
    pages = api.artifacts(retraining["id"])["reports"]
    assert any(f"/retraining/{each['key']}/validation/data_docs/index.html" in pages for each in tried.values())
    assert registry.aliases(MODEL)["challenger"] == outcome["version"]
    assert_refitted(registry.open(MODEL, before).path, registry.open(MODEL, tried["refit"]["version"]).path)
    if "warm" in tried:
        # What does not depend on the network's training was made for the refit.
        api.wait_for_line(retraining["id"], "Stage 'linear' is cached")
    answer = project.sh(
        "set -a; . .local/environment; set +a; "
        f"echo 'Computer security' | cascadexml predict s3://cascadexml/models/{MODEL}@champion"
    )
    assert json.loads(answer.splitlines()[-1])["predictions"]
    # The same batch once more is known to this champion: no event, so no retraining.
    count = len(api.runs("retraining/retraining"))
    again = api.start("monitoring/monitoring", batch=batch)
    assert api.wait(again)["type"] == "COMPLETED"
    if not outcome["promoted"]:
        api.wait_for_line(again, "no event is sent")
        assert len(api.runs("retraining/retraining")) == count


def test_a_cold_retraining_on_all_batches_is_judged_too_and_not_repeated(api: PrefectApi, registry: Registry) -> None:
    """On a second batch too, put where monitoring keeps one."""
    rows = [record | {"source_file": "2020-2021.jsonl", "source_line": n, "error": None}
            for n, record in enumerate(incoming("2020-2021", 60), 1)]  # fmt: skip
    file = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    registry.put_record(
        MODEL, "batches", "2020-2021-by-hand", {"records.parquet": file.getvalue(), "record.json": b"{}"}
    )
    run = api.start("retraining/retraining", challenger="cold")
    name = api.wait(run, 600)["name"]
    assert name in ("Promoted", "ChampionStays"), api.log(run)[-4000:]
    api.wait_for_line(run, f"Finished in state {name}(")
    assert "warm start" not in api.log(run)
    done = next(each for each in records(registry, "retrainings").values() if each["challenger"] == "cold")
    assert done["settings"] == []
    assert done["batches"] == sorted(records(registry, "batches"))
    documents = registry.open(MODEL, done["version"]).meta["documents"]
    assert sum(documents.values()) > 400 + 80 + 80
    assert api.wait(api.start("retraining/retraining", challenger="cold"))["name"] == "NothingNew"


def test_a_release_moves_the_champion_by_hand_and_back(project: Project, api: PrefectApi, registry: Registry) -> None:
    before = champion(registry)
    other = next(each.version for each in registry.versions(MODEL) if each.version != before)
    for parameters, expected in (
        ({"action": "promote", "version": other, "reason": "asked for by the indexers"}, other),
        ({"action": "roll_back", "reason": "complaints about chemistry"}, before),
    ):
        run = api.start("release/release", **parameters)
        assert api.wait(run)["type"] == "COMPLETED", api.log(run)[-3000:]
        assert champion(registry) == expected
        assert parameters["reason"] in json.dumps(api.artifacts(run)["history"])
    assert api.wait(api.start("release/release", action="roll_back", reason=" "))["type"] == "FAILED"
    assert champion(registry) == before
