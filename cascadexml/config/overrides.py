"""Settings laid over params.yaml and written into it, checked as a whole; comments and order stay."""

import io
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cascadexml.bundle import beside
from cascadexml.config import settings_from
from cascadexml.errors import ConfigError

ruamel = YAML()  # keeps comments, order and flow lists
ruamel.preserve_quotes = True
ruamel.width = 1 << 16
ruamel.representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def read(path: Path) -> MutableMapping[str, Any]:
    """Read params.yaml, or a preset, which is laid over it.

    Raises:
        ConfigError: the file is missing, is not YAML or holds no mapping.
    """
    try:
        tree = ruamel.load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, MutableMapping):
        raise ConfigError(f"{path} must be a mapping, found {tree!r}.")
    return tree


def assignment(text: str) -> dict[str, Any]:
    """Turn "train.epochs=1" into {"train": {"epochs": 1}}; the value is YAML.

    Raises:
        ConfigError: there is no key, or the value is not YAML.
    """
    dotted, equals, value = text.partition("=")
    if not (dotted and equals):
        raise ConfigError(f"{text!r} is no setting, expected key=value, such as train.epochs=1.")
    try:
        tree: Any = ruamel.load(value)
    except YAMLError:
        raise ConfigError(f"{text!r}: the value is not YAML, expected such as 1, true, null or [1, 2].") from None
    *outer, key = dotted.split(".")
    assigned = {key: tree}
    for key in reversed(outer):
        assigned = {key: assigned}
    return assigned


def merge(base: MutableMapping[str, Any], overlay: Mapping[str, Any]) -> None:
    """Lay `overlay` over `base` in place: mappings are merged, all else is replaced."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), MutableMapping):
            merge(base[key], value)
        else:
            base[key] = value


def apply(params: Path, settings: Sequence[str], preset: Path | None = None, source: str | None = None) -> None:
    """Write a preset, a source and key=value settings into params.yaml, in this order, after checking the whole.

    Raises:
        ConfigError: anything is wrong; params.yaml stays as it was.
    """
    overlays: list[Mapping[str, Any]] = [read(preset)] if preset else []
    if source:
        # The shell leaves the ~ of SOURCE=~/folder to us; Path would eat one slash of an address.
        overlays.append({"download": {"source": source if "://" in source else str(Path(source).expanduser())}})
    overlays.extend(map(assignment, settings))
    tree = read(params)
    for overlay in overlays:
        merge(tree, overlay)
    text = io.StringIO()
    ruamel.dump(tree, text)
    settings_from(yaml.safe_load(text.getvalue()), str(params))
    if overlays:
        with beside(params) as new:
            new.write_text(text.getvalue(), encoding="utf-8")
