"""Settings for a training without params.yaml: the defaults, with single ones set by their dotted names."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from cascadexml.config import DownloadSettings, DriftSettings, PackageSettings, Settings, settings_from


def default_settings(source: str) -> Settings:
    """The defaults of all knobs; `source` says where the records come from. Of data and use nothing is stated."""
    return Settings(
        download=DownloadSettings(source=source),
        package=PackageSettings(name="cascadexml"),
        drift=DriftSettings(batch="not stated"),
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name, such as {"train.head_lr": 0.001}, out of that, or out of mappings in mappings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Settings with single ones set, checked as a whole.

    Args:
        settings: what to start from.
        values: as of `flat`.

    Raises:
        ConfigError: a key is unknown, or a value is wrong by itself or together with others.
    """
    tree = dataclasses.asdict(settings)
    for dotted, value in flat(values).items():
        *outer, key = dotted.split(".")
        section: dict[str, Any] = tree
        for name in outer:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[key] = copy.deepcopy(value)
    return settings_from(tree, "settings")
