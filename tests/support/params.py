"""The settings of the default run, and params.yaml files that differ from it in a few values."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from cascadexml.config import load_settings
from cascadexml.config.overrides import merge

FILE = Path(__file__).resolve().parents[2] / "params.yaml"
SETTINGS = load_settings(FILE)
_TREE = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def params_tree() -> dict[str, Any]:
    """What the default run's params.yaml holds, to be changed at will."""
    found: dict[str, Any] = deepcopy(_TREE)
    return found


def params_yaml(overlay: str = "") -> str:
    """The default run's params.yaml with the values of `overlay`, which is YAML, in place of its own."""
    tree = params_tree()
    merge(tree, yaml.safe_load(overlay) or {})
    return yaml.safe_dump(tree)
