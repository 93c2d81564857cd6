"""The records of the flows through their JSON, as the registry and published.json keep them."""

import json
from dataclasses import replace

import pytest

from cascadexml.errors import DataError
from flows.records import Outcome, Plan, Retraining

OUTCOME = Outcome("s3://cascadexml/models/gnd@v2", "v2", "v1", True, ("nDCG@5 is better.", "No slice falls."))
PLAN = Plan("v1", ("april-01", "march-02"), "warm", ("train.warm_start=true",), "0" * 64)
DONE = Retraining(PLAN, OUTCOME, "march-02", "drift")


def test_a_retraining_is_the_same_after_its_json() -> None:
    content = json.loads(json.dumps(DONE.to_json()))
    assert Retraining.from_json(content) == DONE
    assert Outcome.from_json(content) == OUTCOME
    assert content["key"] == PLAN.key
    assert content["batch"] == "march-02" and content["version"] == "v2" and content["challenger"] == "warm"


@pytest.mark.parametrize(("settings", "challenger"), [(["train.warm_start=true"], "warm"), ([], "cold")])
def test_a_record_from_before_there_were_refits_is_read(settings: list[str], challenger: str) -> None:
    content = {key: value for key, value in PLAN.to_json().items() if key != "challenger"}
    assert Plan.from_json(content | {"settings": settings}).challenger == challenger


def test_a_challenger_that_nobody_knows_is_named() -> None:
    with pytest.raises(DataError, match="'lukewarm'"):
        Plan.from_json(PLAN.to_json() | {"challenger": "lukewarm"})


@pytest.mark.parametrize(
    "changed",
    [
        replace(PLAN, champion="v2"),
        replace(PLAN, batches=("april-01",)),
        replace(PLAN, challenger="refit"),
        replace(PLAN, settings=()),
        replace(PLAN, params="1" * 64),
    ],
)
def test_another_plan_has_another_key(changed: Plan) -> None:
    assert changed.key != PLAN.key
    assert Plan.from_json(PLAN.to_json()).key == PLAN.key


@pytest.mark.parametrize(
    ("version", "against", "promoted", "serves"),
    [("v2", "v1", True, True), ("v2", "v1", False, False), ("v1", "v1", False, True), ("v1", None, False, False)],
)
def test_who_serves(version: str, against: str | None, promoted: bool, serves: bool) -> None:
    assert Outcome("s3://…", version, against, promoted, ()).serves is serves


@pytest.mark.parametrize(
    "lacking", ["uri", "version", "against", "promoted", "reasons", "champion", "batches", "batch"]
)
def test_what_lacks_a_key_is_one_sentence_that_names_it(lacking: str) -> None:
    content = {key: value for key, value in DONE.to_json().items() if key != lacking}
    with pytest.raises(DataError, match=f"'{lacking}'"):
        Retraining.from_json(content)
