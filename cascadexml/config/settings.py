"""All of params.yaml, checked by name, type and range, and for values that do not go together, before any work."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from cascadexml.config.blend import BlendSettings
from cascadexml.config.cluster import ClusterSettings
from cascadexml.config.download import DownloadSettings
from cascadexml.config.drift import DriftSettings
from cascadexml.config.encoder import EncoderSettings
from cascadexml.config.evaluate import EvaluateSettings
from cascadexml.config.judge import JudgeSettings
from cascadexml.config.knobs import knob, read
from cascadexml.config.linear import LinearSettings
from cascadexml.config.package import PackageSettings
from cascadexml.config.registry import RegistrySettings
from cascadexml.config.retrain import RetrainSettings
from cascadexml.config.tokenize import TokenizeSettings
from cascadexml.config.train import TrainSettings
from cascadexml.config.validate import ValidateSettings
from cascadexml.errors import ConfigError

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of params.yaml: the seed of everything random, and one section a stage."""

    seed: int = knob(0, low=0, high=2**31 - 1, meaning="data order, tree, initialisation, dropout, bootstrap")
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    download: DownloadSettings
    validate: ValidateSettings = field(default_factory=ValidateSettings)
    tokenize: TokenizeSettings = field(default_factory=TokenizeSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    linear: LinearSettings = field(default_factory=LinearSettings)
    blend: BlendSettings = field(default_factory=BlendSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    package: PackageSettings
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    drift: DriftSettings
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)

    def problems(self) -> Iterator[str]:
        """A sentence for each pair of values of two sections that do not go together."""
        lists = self.train.resolutions()
        if self.cluster.levels is not None:
            lists["cluster.levels"] = len(self.cluster.levels) + 1
        if len(set(lists.values())) > 1:
            yield (
                "the lists must speak of one number of resolutions, found "
                f"{', '.join(f'{R} in {name}' for name, R in lists.items())} (train.shortlist and cluster.levels hold "
                "one value fewer than there are resolutions)."
            )
        top_k = self.evaluate.top_k
        for key, name, k in self.judge.cut_offs():
            if k > top_k:
                yield f"judge.{key} names {name!r}, beyond evaluate.top_k, {top_k}: raise that."


def load_settings(path: Path) -> Settings:
    """Read and check params.yaml. No key may be left out: what DVC does not see, it cannot track.

    Raises:
        ConfigError: the file is missing or no YAML mapping; a key is unknown (the nearest right one is named) or not
            there; a value has the wrong type, lies out of range, or is none of the choices; values do not go together.
    """
    return settings_from(_tree(path), str(path))


def load_section(path: Path, name: str, kind: type[Section]) -> Section:
    """Read and check one section of a params.yaml; keys left out take their defaults.

    Raises:
        ConfigError: as `load_settings`, of this section.
    """
    tree = _tree(path)
    values = tree.get(name, {}) if isinstance(tree, Mapping) else tree
    section: Section = read(kind, values, str(path), f"{name}.", complete=False)
    _refuse(section, str(path))
    return section


def settings_from(tree: object, file: str) -> Settings:
    """Check what a YAML file held; `file` is what its errors call it.

    Raises:
        ConfigError: as `load_settings`.
    """
    settings: Settings = read(Settings, tree, file)
    for entry in dataclasses.fields(settings):
        _refuse(getattr(settings, entry.name), file)
    _refuse(settings, file)
    return settings


def read_section(kind: type[Section], values: object, file: str, prefix: str) -> Section:
    """A section from what an artifact keeps of it; keys of other versions of the library are passed over.

    Raises:
        ConfigError: as `load_settings`, of this section.
    """
    known = {field.name for field in dataclasses.fields(cast(Any, kind))}
    kept = {key: value for key, value in values.items() if key in known} if isinstance(values, Mapping) else values
    section: Section = read(kind, kept, file, prefix, complete=False)
    _refuse(section, file)
    return section


def _refuse(section: object, file: str) -> None:
    """Refuse values that are each right and together wrong."""
    problems = getattr(section, "problems", None)
    if problems is not None and (first := next(iter(problems()), None)) is not None:
        raise ConfigError(f"{file}: {first}")


def _tree(path: Path) -> Any:
    try:
        import yaml  # of the pipeline extra: a model's settings must load without it
    except ModuleNotFoundError:
        raise ConfigError(f'{path} cannot be read without PyYAML: pip install "cascadexml[pipeline]".') from None
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: run from the project's root, where params.yaml lies.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML ({' '.join(str(error).split())}): mend that line.") from None
    return {} if tree is None else tree
