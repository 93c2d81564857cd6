"""The JSON schema of params.yaml: in step with the code, and of one mind with the checks."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from cascadexml.config import settings_from
from cascadexml.config.schema import json_schema
from cascadexml.errors import ConfigError
from tests.support.command_line import cascadexml
from tests.support.params import params_yaml


def tree(overlay: str = "") -> Any:
    return yaml.safe_load(params_yaml(overlay))


def test_the_file_beside_params_yaml_is_what_the_command_prints(repo_root: Path) -> None:
    ended = cascadexml("params", "schema")
    assert ended.exit_code == 0
    committed = (repo_root / "params.schema.json").read_text(encoding="utf-8")
    assert committed == ended.stdout, "run: cascadexml params schema > params.schema.json"
    first = (repo_root / "params.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=params.schema.json"


def test_it_is_a_schema_that_params_yaml_keeps() -> None:
    Draft202012Validator.check_schema(json_schema())
    Draft202012Validator(json_schema()).validate(tree())


@pytest.mark.parametrize(
    ("overlay", "where"),
    [
        ("train: {epoch: 1}", ["train"]),
        ("trian: {}", []),
        ("train: {epochs: many}", ["train", "epochs"]),
        ("train: {epochs: 2000}", ["train", "epochs"]),
        ("train: {epochs: -1}", ["train", "epochs"]),
        ("train: {pooling: max}", ["train", "pooling"]),
        ("train: {dropout: [0.1, 0.99]}", ["train", "dropout"]),
        ("tokenize: {max_length: 4.5}", ["tokenize", "max_length"]),
        ("tokenize: {max_length: null}", ["tokenize", "max_length"]),
        ("seed: true", ["seed"]),
        ("judge: {guards: [3]}", ["judge", "guards", 0]),
        ("judge: 3", ["judge"]),
    ],
)
def test_what_the_checks_refuse_the_schema_refuses_in_the_same_place(overlay: str, where: list[str]) -> None:
    (error,) = Draft202012Validator(json_schema()).iter_errors(tree(overlay))
    assert list(error.path) == where
    with pytest.raises(ConfigError):
        settings_from(tree(overlay), "params.yaml")


def test_a_key_left_out_is_refused_by_both() -> None:
    lacking = tree()
    del lacking["train"]["epochs"]
    (error,) = Draft202012Validator(json_schema()).iter_errors(lacking)
    assert "'epochs' is a required property" in error.message
    with pytest.raises(ConfigError, match=r"lacks train\.epochs"):
        settings_from(lacking, "params.yaml")
