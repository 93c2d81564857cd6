"""Presets and overrides: what `make run PRESET= SOURCE= SET=` writes into params.yaml."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cascadexml.config import Settings, load_settings
from stages import overrides

REPO = Path(__file__).resolve().parents[2]
PRESETS = sorted((REPO / "params").glob("*.yaml"))


@dataclass(frozen=True)
class Project:
    """A folder with params.yaml and the presets, which is the working directory."""

    root: Path
    capture: pytest.CaptureFixture[str]

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    def override(self, *arguments: str) -> tuple[int, str]:
        """Exit code and stderr of `python -m stages.overrides` with these arguments."""
        code = overrides.main(arguments)
        return code, self.capture.readouterr().err

    def settings_after(self, *arguments: str) -> Settings:
        assert self.override(*arguments) == (0, "")
        return load_settings(self.params)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    shutil.copy(REPO / "params.yaml", tmp_path)
    shutil.copytree(REPO / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, capsys)


def test_the_five_public_sets_have_a_preset() -> None:
    names = ["amazon-3m", "amazon-670k", "amazoncat-13k", "wiki-500k", "wiki10-31k"]
    assert [path.stem for path in PRESETS] == names


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_an_overlay_that_passes_the_checks(preset: Path, project: Project) -> None:
    before = yaml.safe_load(project.params.read_text())
    settings = project.settings_after("--preset", f"params/{preset.name}")
    after = yaml.safe_load(project.params.read_text())
    overlay = yaml.safe_load(preset.read_text())
    for section, values in overlay.items():
        for key, value in values.items():
            if not isinstance(value, dict):
                assert after[section][key] == value
    for section in before.keys() - overlay.keys():
        assert after[section] == before[section]
    # One value a resolution, and every tap within the twelve layers of the paper's encoder.
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


@pytest.mark.parametrize("source", ["~/with space/it's.jsonl", "https://example.org/a,b.zip?x=1&y=2", "1e5", "[a]"])
def test_a_source_is_taken_as_it_is(source: str, project: Project) -> None:
    assert project.settings_after("--source", source).download.source == str(source).replace("~", str(Path.home()))


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
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error
    assert project.params.read_bytes() == before


def test_without_arguments_params_yaml_is_only_checked(project: Project) -> None:
    before = project.params.read_bytes()
    assert project.override() == (0, "")
    assert project.params.read_bytes() == before
    project.params.write_text("trian: {}\n")
    assert project.override() == (1, "error: params.yaml: unknown key trian; the nearest known one is train.\n")
