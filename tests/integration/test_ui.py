"""The Prefect UI, Data Docs and the Evidently page in a headless browser, as a person sees them."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.conftest import Project, environment
from tests.integration.prefect_api import PrefectApi, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

EMIT = """
from prefect.events import emit_event
emit_event("cascadexml.drift.detected", resource={"prefect.resource.id": "cascadexml.model.any"},
           payload={"batch": "none-0123456789ab"})
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser(finished: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium, logged in to the Prefect UI. SCREENSHOTS names a folder that keeps what it showed."""
    binary, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if not (binary and driver):
        assert "CI" not in os.environ, "Chromium and its driver are missing: apt install chromium chromium-driver"
        pytest.skip("Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    options = ChromeOptions()
    options.binary_location = binary
    folder = tmp_path_factory.mktemp("chromium")
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
                   "disable-background-networking", "disable-component-update", "disable-sync", "disable-quic",
                   f"user-data-dir={folder}", "window-size=1400,1000"):  # fmt: skip
        options.add_argument(f"--{switch}")
    chrome = Chrome(options, Service(driver))
    try:
        log_in(chrome, finished[0])
        yield chrome
    finally:
        chrome.quit()


def log_in(browser: Chrome, project: Project) -> None:
    """Do what `make up` says: type the text that stands in `.local` into the field of the page that shows first."""
    browser.get(f"{ui(project)}/deployments")
    wait = WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException])
    field = wait.until(lambda driver: driver.find_element(By.CSS_SELECTOR, "input[type=password]"))
    assert "monitoring" not in browser.find_element(By.TAG_NAME, "body").text
    field.send_keys(PrefectApi.of(environment(project)).auth_string, Keys.ENTER)
    wait.until(lambda driver: not driver.find_elements(By.CSS_SELECTOR, "input[type=password]"))


def shows(browser: Chrome, url: str | None, *texts: str, tab: str | None = None, picture: str | None = None) -> None:
    """Open a page, turn to a tab if one is named, and wait until it shows all of `texts`."""
    wait = WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException])
    if url:
        browser.get(url)
    if tab:
        wait.until(lambda driver: driver.find_element(By.XPATH, f"//*[normalize-space(.)='{tab}']")).click()

    def seen(driver: Chrome) -> bool:
        page = driver.find_element(By.TAG_NAME, "body").text
        return all(text in page for text in texts)

    try:
        wait.until(seen, f"{url} does not show {texts}")
    finally:
        if picture and (folder := os.environ.get("SCREENSHOTS")):
            time.sleep(3)  # charts come after the text
            browser.save_screenshot(str(Path(folder) / f"{picture}.png"))


def ui(project: Project) -> str:
    return environment(project)["PREFECT_API_URL"].removesuffix("/api")


def test_deployments_with_their_schedules(finished: tuple[Project, str], browser: Chrome) -> None:
    names = ("pipeline", "monitoring", "retraining", "release")
    shows(browser, f"{ui(finished[0])}/deployments", *names, picture="deployments")
    api = PrefectApi.of(environment(finished[0]))
    for name, schedule in (("retraining", "At 03:00 AM on day 1 of the month"), ("monitoring", "At 04:00 AM")):
        found = api.get(f"deployments/name/{name}/{name}")["id"]
        shows(browser, f"{ui(finished[0])}/deployments/deployment/{found}", schedule, picture=f"deployment-{name}")


def test_a_completed_pipeline_run_with_its_artifacts(finished: tuple[Project, str], browser: Chrome) -> None:
    api = PrefectApi.of(environment(finished[0]))
    runs = api.post("flow_runs/filter", {"flows": {"name": {"any_": ["pipeline"]}}, "sort": "START_TIME_ASC"})
    # That of `make run`, in which no stage was up to date.
    run = next(each for each in runs if each["state"]["type"] == "COMPLETED")
    page = f"{ui(finished[0])}/runs/flow-run/{run['id']}"
    shows(browser, page, run["name"], "Completed", "'download'", picture="pipeline-run")
    keys = ("metrics", "judgement", "published-version", "reports")
    shows(browser, None, *keys, tab="Artifacts", picture="pipeline-artifacts")


def test_the_data_docs_and_the_drift_report(finished: tuple[Project, str], browser: Chrome) -> None:
    reports = (finished[0].root / "data" / "reports").as_uri()
    shows(browser, f"{reports}/validation/data_docs/index.html", "train", picture="data-docs")
    # `make run` made none here: it takes a while.
    out = finished[0].root / "data" / "reports" / "drift-page"
    finished[0].sh(
        "cp params.yaml params.kept; cascadexml params set drift.report_rows=50; "
        f"python -m stages.drift --batch later.jsonl --model data/models/artifact --out {out}; "
        "mv params.kept params.yaml"
    )
    shows(browser, f"{out.as_uri()}/report.html", "Drift", picture="evidently")
    shutil.rmtree(out)


@pytest.fixture
def drifted(finished: tuple[Project, str]) -> dict[str, Any]:
    """A retraining that an event of drift started: one that is there, else one for a batch that is not."""
    project, _ = finished
    api = PrefectApi.of(environment(project))

    def started() -> list[dict[str, Any]]:
        return [each for each in api.runs("retraining/retraining") if each["parameters"].get("reason") == "drift"]

    if not started():
        project.sh(f"set -a; . .local/environment; set +a; python -c '{EMIT}'")
    (run, *_) = until(started, "the event started no retraining")
    api.wait(run["id"])
    return next(each for each in started() if each["id"] == run["id"])


def test_a_retraining_that_drift_started(
    drifted: dict[str, Any], finished: tuple[Project, str], browser: Chrome
) -> None:
    assert json.dumps(drifted["created_by"]).count("AUTOMATION") == 1
    assert drifted["state"]["name"] in ("Promoted", "ChampionStays", "NothingNew")
    page = f"{ui(finished[0])}/runs/flow-run/{drifted['id']}"
    # Who made the run is asked of the server: the page no longer names an automation that was deployed anew since.
    shows(browser, page, drifted["name"], drifted["state"]["name"], picture="retraining-run")
    shows(browser, None, drifted["parameters"]["batch"], tab="Parameters")
