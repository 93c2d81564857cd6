"""Settings: what is right is read as it is, and each kind of wrong is refused by name before any work."""

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cascadexml.config import RegistrySettings, Settings, load_section, load_settings, settings_from
from cascadexml.errors import ConfigError
from tests.support.params import SETTINGS, params_tree, params_yaml


def sections() -> dict[str, type]:
    hints = typing.get_type_hints(Settings)
    return {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}


def keys(cls: type, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every key, sections left out."""
    found = []
    for name, hint in typing.get_type_hints(cls).items():
        found += keys(hint, (*prefix, name)) if dataclasses.is_dataclass(hint) else [(*prefix, name)]
    return found


def nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def with_value(path: tuple[str, ...], value: Any) -> Any:
    """What params.yaml holds, but for one value."""
    tree: Any = params_tree()
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tree


def refused(text: str, tmp_path: Path) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_params_yaml_names_every_key(repo_root: Path) -> None:
    tree = yaml.safe_load((repo_root / "params.yaml").read_text(encoding="utf-8"))

    def paths(node: Any, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if not isinstance(node, dict):
            return {prefix}
        return set().union(*(paths(value, (*prefix, key)) for key, value in node.items()))

    assert paths(tree) == set(keys(Settings))
    load_settings(repo_root / "params.yaml")


def test_all_settings_written_out_read_back_equal() -> None:
    assert settings_from(dataclasses.asdict(SETTINGS), "params.yaml") == SETTINGS


@pytest.mark.parametrize("path", keys(Settings), ids=".".join)
def test_each_key_that_is_not_there_is_named_with_what_to_add(path: tuple[str, ...]) -> None:
    tree = dataclasses.asdict(SETTINGS)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(ConfigError, match=rf"^params\.yaml lacks {'.'.join(path)} \(.+\): add it") as caught:
        settings_from(tree, "params.yaml")
    said = str(caught.value)
    if "e.g." in said:
        inner.update(yaml.safe_load(said.split("`")[-2]))
        settings_from(tree, "params.yaml")
    else:
        assert path in (("download", "source"), ("package", "name"), ("drift", "batch"))


def test_a_section_that_is_not_there_lacks_its_first_key_and_more(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    tree = dataclasses.asdict(SETTINGS)
    del tree["tokenize"]
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"params\.yaml lacks tokenize\.max_length .*; 1 more keys are missing\.$"):
        load_settings(path)
    path.write_text("")
    with pytest.raises(ConfigError, match=r"params\.yaml lacks seed .*: add it, e\.g\. `seed: 0`; \d+ more keys"):
        load_settings(path)


def test_one_section_is_read_without_the_others_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("registry: {attempts: 2}")
    assert load_section(path, "registry", RegistrySettings) == RegistrySettings(attempts=2)
    path.write_text("")
    assert load_section(path, "registry", RegistrySettings) == RegistrySettings()
    for text, said in (
        ("registry: {attempt: 2}", "unknown key registry.attempt; the nearest known one is registry.attempts."),
        ("registry: {uri: http://bucket}", "registry.uri is 'http://bucket', expected s3://bucket/prefix."),
        ("registry: 3", "registry must be a mapping, found 3."),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(f"{path}: {said}")):
            load_section(path, "registry", RegistrySettings)


@pytest.mark.parametrize("path", keys(Settings), ids=".".join)
def test_each_misspelt_key_is_refused_with_the_right_one(path: tuple[str, ...]) -> None:
    *parents, key = path
    wrong = key[:-1] + "_" + key[-1]
    with pytest.raises(ConfigError) as caught:
        settings_from(nested((*parents, wrong), 1), "params.yaml")
    assert f"unknown key {'.'.join((*parents, wrong))}" in str(caught.value)
    assert str(caught.value).endswith(f"the nearest known one is {'.'.join(path)}.")


@pytest.mark.parametrize("section", sections())
def test_each_misspelt_section_is_refused_with_the_right_one(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key {section}x; the nearest known one is {section}\."):
        settings_from({section + "x": {}}, "params.yaml")


@pytest.mark.parametrize("path", keys(Settings), ids=".".join)
def test_each_key_refuses_a_value_of_a_wrong_type(path: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=rf"params\.yaml: {'.'.join(path)} is \{{'a': 1\}}, expected"):
        settings_from(nested(path, {"a": 1}), "params.yaml")


@pytest.mark.parametrize("section", sections())
@pytest.mark.parametrize("value", [None, 3, "text", [1]])
def test_a_section_must_be_a_mapping(section: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{section} must be a mapping"):
        settings_from({section: value}, "params.yaml")


def field_of(path: tuple[str, ...]) -> "dataclasses.Field[Any]":
    cls: Any = Settings
    for key in path[:-1]:
        cls = typing.get_type_hints(cls)[key]
    return next(field for field in dataclasses.fields(cls) if field.name == path[-1])


def bounded() -> list[tuple[tuple[str, ...], str, float]]:
    found = []
    for path in keys(Settings):
        field = field_of(path)
        is_list = "list" in str(field.type)
        for side in ("low", "high"):
            bound = field.metadata[side]
            if bound is not None:
                beyond = bound - 1 if side == "low" else bound + 1
                found.append((path, side, [beyond] if is_list else beyond))
    return found


@pytest.mark.parametrize(("path", "side", "value"), bounded(), ids=lambda part: str(part))
def test_each_bound_is_kept(path: tuple[str, ...], side: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{'.'.join(path)}(\[0\])? is .*, expected a number"):
        settings_from(nested(path, value), "params.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1.5", "seed is 1.5, expected a whole number"),
        ("seed: true", "seed is True, expected a whole number"),
        ("train: {epochs: ten}", "train.epochs is 'ten', expected a number"),
        ("train: {epochs: .nan}", "train.epochs is nan, expected a finite number"),
        ("train: {warmup_epochs: .inf}", "train.warmup_epochs is inf, expected a finite number"),
        ("train: {compile: 1}", "train.compile is 1, expected true or false"),
        ("train: {dropout: [0.1, high]}", "train.dropout[1] is 'high', expected a number"),
        ("train: {taps: [3, 6]}", "train.taps[0] is 3, expected a list"),
        ("train: {pooling: max}", "train.pooling is 'max', expected one of cls, mean; the nearest is"),
        ("train: {precision: bf15}", "the nearest is 'bf16'"),
        ("train: {select: nDGC@5}", "the nearest is 'nDCG@5'"),
        ("train: {select: P}", "train.select: there is no metric 'P'"),
        ("train: {batch_size: 32, micro_batch_size: 12}", "train.micro_batch_size is 12, expected a divisor of"),
        ("train: {sharded: true, negatives: all}", "train.negatives is all, expected shortlist where train.sharded"),
        ("train: {batch_size: 8}", "train.micro_batch_size is 32, expected a divisor of train.batch_size, 8"),
        ("train: {clip_norm: 0}", "train.clip_norm is 0"),
        ("train: {dropout: [0.1, 0.2], shortlist: [5, 5]}", "2 in train.dropout, 3 in train.shortlist"),
        ("{train: {taps: [[1]]}, cluster: {levels: [8]}}", "1 in train.taps, 2 in cluster.levels"),
        ("cluster: {levels: [8, 100]}", "cluster.levels is [8, 100], expected rising powers of two"),
        ("cluster: {levels: [64, 8]}", "cluster.levels is [64, 8], expected rising powers of two"),
        ("download: {split: {dev: 0.5, test: 0.5}}", "expected less than 1"),
        ("download: {accepted: {dev: 0.5, test: 0.5}}", "download.accepted.dev + download.accepted.test is 1"),
        ("download: {split: {method: time}}", "download.split.column is null, expected a column's name"),
        ("download: {sha256: abc}", "download.sha256 is 'abc', expected 64 hex digits"),
        ("download: {source: ''}", "download.source is empty"),
        ("download: {label_separator: ''}", "download.label_separator is empty"),
        ("encoder: {name: ''}", "encoder.name is empty"),
        ("validate: {min_chars: 10, max_chars: 5}", "validate.min_chars is 10, expected at most validate.max_chars, 5"),
        ("validate: {min_labels: 300}", "validate.min_labels is 300, expected at most validate.max_labels, 200"),
        ("evaluate: {ks: [1, 200]}", "evaluate.ks is [1, 200], expected rising cut-offs, at most evaluate.top_k, 100"),
        ("evaluate: {ks: [5, 1]}", "expected rising cut-offs"),
        ("evaluate: {ks: []}", "evaluate.ks is []"),
        ("evaluate: {torso: 100}", "evaluate.torso is 100, expected less than evaluate.head, 100"),
        ("drift: {batch: ''}", "drift.batch is empty"),
        ("drift: {draws: 500}", "drift.draws is 500: no p-value of so many draws is below drift.alpha, 0.001"),
    ],
)
def test_wrong_values_are_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    assert said in refused(params_yaml(text), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {epochs: ten}", "train.epochs is 'ten', expected a number"),
        ("- seed", "the file must be a mapping, found ['seed']"),
        ("seed: [1", "is not YAML"),
        ("1: 2", "unknown key 1; the nearest known one is "),
    ],
)
def test_what_is_wrong_is_told_before_what_is_not_there(text: str, said: str, tmp_path: Path) -> None:
    assert said in refused(text, tmp_path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml is missing"):
        load_settings(tmp_path / "nowhere.yaml")


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = params_yaml("train: {epochs: 3}")
    path.write_text(text.replace("encoder_lr: 0.0002", "encoder_lr: 1e-5"))
    train = load_settings(path).train
    assert (train.encoder_lr, train.epochs) == (1e-5, 3.0)
    assert isinstance(train.epochs, float)


def numbers() -> list[tuple[tuple[str, ...], float, bool]]:
    """Each key that takes a number, a number between its bounds, and whether it takes a list of them."""
    found = []
    for path in keys(Settings):
        cls: Any = Settings
        for key in path[:-1]:
            cls = typing.get_type_hints(cls)[key]
        field = next(f for f in dataclasses.fields(cls) if f.name == path[-1])
        hint = str(typing.get_type_hints(cls)[path[-1]])
        if "float" in hint:
            low, high = (field.metadata[side] for side in ("low", "high"))
            low = low or 0.0
            found.append((path, low + 0.37 * ((low + 1 if high is None else high) - low), "list" in hint))
    return found


@pytest.mark.parametrize(("path", "number", "is_list"), numbers(), ids=lambda part: str(part))
def test_each_number_is_taken_as_it_stands(path: tuple[str, ...], number: float, is_list: bool) -> None:
    for written in (number, repr(number)):
        built: Any = settings_from(with_value(path, [written] if is_list else written), "params.yaml")
        for key in path:
            built = getattr(built, key)
        assert built == ([number] if is_list else number)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(deadline=None, max_examples=200)
@given(path=st.sampled_from(keys(Settings)), value=json_like)
def test_any_value_is_taken_with_its_type_or_refused_by_name(path: tuple[str, ...], value: Any) -> None:
    try:
        built: Any = settings_from(with_value(path, value), "params.yaml")
    except ConfigError as error:
        # The name is the key's own, or its section's where two values do not go together.
        assert path[0] in str(error)
        return
    for key in path:
        built = getattr(built, key)
    # A number may be written as text, as YAML 1.1 reads 1e-5; all else is taken as it stands.
    assert equal(built, value)


def equal(built: Any, value: Any) -> bool:
    if isinstance(built, list):
        return isinstance(value, list) and len(built) == len(value) and all(map(equal, built, value))
    if isinstance(built, float):
        return not isinstance(value, bool) and built == float(value)
    return type(built) is type(value) and bool(built == value)


def test_the_reference_has_every_key_with_its_range(repo_root: Path) -> None:
    text = (repo_root / "docs" / "reference-params.md").read_text(encoding="utf-8")
    documented, meanings = {}, {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:] + "."
        elif line.startswith("| `"):
            key, _, span, meaning = (cell.strip() for cell in line.strip("|").split(" | "))
            meanings[section + key.strip("`| ")] = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", meaning.strip("| "))
            documented[section + key.strip("`| ")] = span
    assert documented.keys() == {".".join(path) for path in keys(Settings)}
    assert meanings == {".".join(path): field_of(path).metadata["meaning"] for path in keys(Settings)}
    for path, side, value in bounded():
        beyond = value[0] if isinstance(value, list) else value
        bound = beyond + 1 if side == "low" else beyond - 1
        assert f"{bound:g}" in documented[".".join(path)].split() or str(bound) in documented[".".join(path)].split()
