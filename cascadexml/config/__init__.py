"""Typed settings behind params.yaml: a frozen dataclass a section, a section a file."""

from cascadexml.config.blend import BlendSettings
from cascadexml.config.cluster import ClusterSettings
from cascadexml.config.download import AcceptedSettings, ColumnSettings, DownloadSettings, SplitSettings
from cascadexml.config.drift import DriftSettings
from cascadexml.config.encoder import EncoderSettings
from cascadexml.config.evaluate import EvaluateSettings
from cascadexml.config.judge import JudgeSettings
from cascadexml.config.linear import LinearSettings
from cascadexml.config.package import PackageSettings
from cascadexml.config.registry import RegistrySettings
from cascadexml.config.retrain import Challenger, RetrainSettings
from cascadexml.config.settings import Settings, load_section, load_settings, read_section, settings_from
from cascadexml.config.tokenize import TokenizeSettings
from cascadexml.config.train import TrainSettings
from cascadexml.config.validate import ValidateSettings

__all__ = [
    "AcceptedSettings",
    "BlendSettings",
    "Challenger",
    "ClusterSettings",
    "ColumnSettings",
    "DownloadSettings",
    "DriftSettings",
    "EncoderSettings",
    "EvaluateSettings",
    "JudgeSettings",
    "LinearSettings",
    "PackageSettings",
    "RegistrySettings",
    "RetrainSettings",
    "Settings",
    "SplitSettings",
    "TokenizeSettings",
    "TrainSettings",
    "ValidateSettings",
    "load_section",
    "load_settings",
    "read_section",
    "settings_from",
]
