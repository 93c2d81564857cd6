"""The whole pipeline through make and DVC: what runs, what does not run again, what is refused."""

import functools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from cascadexml import Predictor
from tests.conftest import S3Server
from tests.integration.conftest import Project
from tests.integration.prefect_api import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MEASURED = ["evaluate", "reference", "package", "drift"]
ALL = ["download", "validate", "tokenize", "cluster", "train", "linear", "blend", *MEASURED]


@pytest.fixture
def project(at_rest: tuple[Project, str]) -> Iterator[Project]:
    """The finished project; changes of tracked files are taken back, outs are checked out of DVC's cache."""
    project, _ = at_rest
    lock = (project.root / "dvc.lock").read_bytes()
    yield project
    stages_ran = (project.root / "dvc.lock").read_bytes() != lock
    project.sh("git checkout --quiet ." + " && dvc checkout --quiet --force" * stages_ran)


def test_make_run_runs_every_stage_and_tells_the_results(at_rest: tuple[Project, str]) -> None:
    project, printed = at_rest
    assert project.ran(printed) == ALL
    metrics = json.loads((project.root / "data/reports/metrics.json").read_text())
    table = next(line for line in printed.splitlines() if line.startswith("P@1 "))
    figures = [metrics["test"]["P@1"], *(figures["P@1"] for figures in metrics["baselines"].values())]
    assert len(figures) == 6
    for figure in figures:
        assert f" {100 * figure:.2f} " in f"{table} "
    reports = printed.split("\nReports\n")[1].split("\n\n")[0].splitlines()
    assert len(reports) == 5
    for line in reports:
        assert (project.root / line.split()[-1]).exists(), line
    assert printed.split("Three test records")[1].count("%  ") == 3 * 5


def test_the_artifact_predicts_what_make_run_showed(at_rest: tuple[Project, str]) -> None:
    project, printed = at_rest
    text = json.loads((project.root / "own-data/test.jsonl").read_text().splitlines()[0])["text"]
    for found in Predictor.load(project.root / "data/models/artifact").predict(text, top_k=5):
        assert f"{found.probability:5.1%}  {found.name}  ({found.id})" in printed


def test_a_second_repro_does_nothing(project: Project) -> None:
    lock = (project.root / "dvc.lock").read_bytes()
    output = project.sh("dvc repro")
    assert project.ran(output) == []
    assert "Data and pipelines are up to date." in output
    assert (project.root / "dvc.lock").read_bytes() == lock
    assert project.sh("git status --porcelain") == ""


SETTINGS = {
    "seed=1": ["cluster", "train", "linear", "blend", *MEASURED],
    "encoder.name=other": ["tokenize", "train", "package"],
    "download.split.dev=0.2": ["download", "package", "drift"],
    "validate.min_chars=4": ["validate", "package", "drift"],
    "tokenize.max_length=16": ["tokenize", "package"],
    "cluster.leaf_size=4": ["cluster", "package"],
    "train.epochs=2": ["train", "package"],
    "linear.cost=2": ["linear", "package"],
    "blend.folds=4": ["blend", "package"],
    "blend.neighbours=5": ["blend", "evaluate", "package"],
    "evaluate.examples=5": ["evaluate", "package"],
    "package.limits=none": ["package"],
    "drift.min_failed=2": ["drift"],
    "judge.margin=0.1": [],
}
FILES = {
    "requirements.lock": ALL,
    "tiny-encoder/config.json": ["tokenize", "train"],
    "cascadexml/bundle.py": ALL,
    "cascadexml/labels/tree.py": ["cluster", "train", "linear", "blend", "evaluate", "drift"],
    "cascadexml/training/schedule.py": ["train"],
    "cascadexml/rankers/mixture.py": ["blend", "evaluate", "drift"],
    "cascadexml/evaluation/plots.py": MEASURED,
    "cascadexml/artifact/model_card.py": ["package"],
    "cascadexml/serving/predictor.py": [],
}
# One process for all: DVC's start and its reading of the project cost more than a dry run.
DRY_RUNS = """
import os, subprocess, sys
from pathlib import Path
from dvc.cli import main
for change in sys.argv[1:]:
    file = Path("params.yaml" if "=" in change else change)
    before, stat = file.read_bytes(), file.stat()
    if "=" in change:
        subprocess.run(["cascadexml", "params", "set", change], check=True)
    else:
        file.write_bytes(before + b" ")
    print(f"with {change}:", flush=True)
    assert main(["repro", "--dry"]) == 0
    file.write_bytes(before)
    # make goes by dates: it must not think that the environment is older than the lock.
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
# Nor may git write it anew because of its other dates.
subprocess.run(["git", "update-index", "-q", "--refresh"], check=True)
"""


def test_a_setting_and_a_file_concern_their_own_stages(project: Project) -> None:
    script = project.root / ".git" / "dry_runs.py"
    script.write_text(DRY_RUNS, encoding="utf-8")
    printed = project.sh(f"python {script} {' '.join([*SETTINGS, *FILES])}")
    found = {each.partition(":")[0]: project.ran(each) for each in printed.split("with ")[1:]}
    # A dry run goes by settings and files as they are: what follows is decided by what the stages write. The artifact
    # tells the settings that made it, so its stage is concerned by all of them.
    assert found == SETTINGS | FILES


def test_going_back_to_settings_that_ran_before_runs_nothing(project: Project) -> None:
    project.sh("cascadexml params set package.limits=none")
    assert project.ran(project.sh("dvc repro")) == ["package", "drift"]
    project.sh("git checkout --quiet params.yaml")
    assert project.ran(project.sh("dvc repro")) == []


def test_repro_of_one_stage_stops_there(project: Project) -> None:
    project.sh("cascadexml params set evaluate.examples=7")
    assert project.ran(project.sh("dvc repro evaluate")) == ["evaluate"]


def test_an_experiment_changes_metrics_that_diff_and_plots_show(project: Project) -> None:
    output = project.sh("dvc exp run -S train.epochs=0.5 -S train.head_lr=0.01")
    assert project.ran(output) == ["train", "blend", *MEASURED]
    changes = json.loads(project.sh("dvc metrics diff --json"))
    changed = changes["data/reports/metrics.json"]
    # The untrained encoder ranks so badly that the blend leaves the network out: its own figures change.
    assert changed["baselines.cascade.nDCG@5"]["diff"] != 0
    assert {name.split(".")[1] for name in changed if name.startswith("baselines.")} <= {"cascade"}
    shown = json.loads(project.sh("dvc metrics show --json"))
    (files,) = (revision["data"] for revision in shown.values())
    assert set(files) == {
        "data/reports/metrics.json",
        "data/reports/tree.json",
        "data/reports/blend.json",
        "data/reports/training/metrics.json",
        "data/reports/validation/summary.json",
    }
    for command in ("dvc plots show", "dvc plots diff"):
        project.sh(command)
        page = (project.root / "dvc_plots/index.html").read_text()
        for title in ("Precision at k", "Recall on test", "Reliability", "Distribution of probabilities", "loss/total"):
            assert title in page
        assert page.count("<img") >= 5
    assert "0.5" in project.sh("dvc exp show --md")


def test_a_queue_searches_settings_and_the_best_is_written_back(project: Project) -> None:
    """As docs/pipeline.md has it; what git does not know is copied along."""
    project.sh("dvc exp run --queue -S 'linear.cost=1,2' -C own-data -C tiny-encoder blend && dvc queue start")
    until(lambda: project.sh("dvc queue status").count("Success") == 2, "the queue's trials do not end", 300)
    shown = json.loads(project.sh("dvc exp show --json"))
    trials = {each["name"]: each["revs"][0]["data"] for row in shown for each in row["experiments"] or []}
    costs = {name: trial["params"]["params.yaml"]["data"]["linear"]["cost"] for name, trial in trials.items()}
    assert {1, 2} <= set(costs.values())
    best = next(name for name, cost in costs.items() if cost == 2)
    project.sh(f"dvc exp apply {best}")
    assert yaml.safe_load((project.root / "params.yaml").read_text())["linear"]["cost"] == 2
    assert project.ran(project.sh("dvc repro blend")) == []


def test_trials_tell_mean_and_spread_over_seeds(project: Project) -> None:
    command = "python -m benchmarks.trials --of linear.cost=3 --seeds 0 1 --copy own-data tiny-encoder 2>/dev/null"
    first, second, both = (json.loads(line) for line in project.sh(command).splitlines())
    assert [first["settings"], first["seed"], second["seed"], both["seeds"]] == [["linear.cost=3"], 0, 1, 2]
    assert first["minutes"] > 0 and "test" not in first
    reached = [each["dev"]["nDCG@20"] for each in (first, second)]
    assert both["dev"]["nDCG@20"] == pytest.approx([np.mean(reached), np.std(reached, ddof=1)], abs=1e-5)
    # Done once, they come out of the cache.
    again = [json.loads(line) for line in project.sh(command).splitlines()]
    assert [each["dev"] for each in again] == [each["dev"] for each in (first, second, both)]
    assert again[0]["minutes"] is None


def test_changed_source_content_is_downloaded_again(project: Project) -> None:
    source = project.root / "own-data/train.jsonl"
    before = source.read_bytes()
    try:
        source.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))
        status = json.loads(project.sh("dvc status --json download"))
        assert status["download"] == [{"changed deps": {"own-data": "modified"}}]
    finally:
        source.write_bytes(before)
    assert json.loads(project.sh("dvc status --json download")) == {}


def test_sources_elsewhere_are_dependencies_too(project: Project, s3_server: S3Server, tmp_path: Path) -> None:
    """A web server without ETags, and an S3 prefix: downloaded once, and again when what lies there has changed."""
    records = (project.root / "own-data/train.jsonl").read_bytes()
    bucket = s3_server.make_bucket()
    remote = Project(project.root, project.environment | s3_server.environment)

    def publish(content: bytes) -> None:
        (tmp_path / "train.jsonl").write_bytes(content)
        s3_server.client().put_object(Bucket=bucket, Key="own/train.jsonl", Body=content)

    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for source in (f"http://127.0.0.1:{server.server_port}/train.jsonl", f"s3://{bucket}/own"):
            publish(records)
            remote.sh(f"cascadexml params set --source {source}")
            assert remote.ran(remote.sh("dvc repro download")) == ["download"]
            assert remote.ran(remote.sh("dvc repro download")) == []
            assert json.loads((project.root / "data/raw/source.json").read_text())["source"] == source
            publish(records[records.index(b"\n") + 1 :])
            assert remote.ran(remote.sh("dvc repro download")) == ["download"]
        server.shutdown()


def test_a_wrong_key_stops_the_pipeline_before_any_work(project: Project) -> None:
    params = project.root / "params.yaml"
    text = params.read_text().replace("  pooling:", "  poolign:").replace("  min_chars: 3", "  min_chars: 4")
    params.write_text(text)
    for command in ("dvc repro", "make run SET="):
        output = project.sh(command, ok=False)
        assert "error: params.yaml: unknown key train.poolign; the nearest known one is train.pooling." in output
        assert "Traceback" not in output


def test_make_clean_removes_the_outs_and_repro_takes_them_from_the_cache(project: Project) -> None:
    project.sh("make clean")
    assert not (project.root / "data/models").exists()
    assert (project.root / "own-data").exists() and (project.root / "data/sample").exists()
    assert project.ran(project.sh("dvc repro")) == []
    assert (project.root / "data/models/artifact/manifest.json").exists()


def test_the_benchmark_of_challengers_makes_and_judges_one(project: Project, repo_root: Path, tmp_path: Path) -> None:
    batch = project.root / "later.jsonl"
    command = [sys.executable, "-m", "benchmarks.challengers", project.root, batch, "--starts", "refit"]
    done = subprocess.run([*command, "--work", tmp_path], cwd=repo_root, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["challenger"] == "refit"
    assert 0 < line["accepted records"] <= len(batch.read_text(encoding="utf-8").splitlines())
    metrics = json.loads((tmp_path / "refit" / "data/reports/metrics.json").read_text(encoding="utf-8"))
    assert line["figures"]["P@1"]["challenger"] == pytest.approx(100 * metrics["test"]["P@1"], abs=0.01)
    assert line["held-out records"] > len((project.root / "own-data/test.jsonl").read_text().splitlines())
