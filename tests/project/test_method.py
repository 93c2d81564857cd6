"""docs/method.md against the code: its names, its settings, the shapes that it gives, the sample's dimensions."""

import importlib
import itertools
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import sparse

from cascadexml.config import TrainSettings, load_settings
from cascadexml.labels.tree import build_tree, derive_levels
from cascadexml.rankers.cascade.encoder import load_encoder
from cascadexml.rankers.cascade.network import CascadeXML, default_taps, derive_config
from cascadexml.rankers.cascade.positives import LevelPositives, children_of_levels
from tests.support.tiny_encoders import make_tiny_encoder

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs" / "method.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```math\n.*?^```$", "", PAGE, flags=re.S | re.M)
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))
PARAMS = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
STAGES = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# Where a bare name such as `pick_shortlist` is looked for.
ROOMS = ("labels", "rankers", "rankers.cascade", "training", "data.tokens", "evaluation.calibration")


def modules() -> list[ModuleType]:
    found = [importlib.import_module(f"cascadexml.{room}") for room in ROOMS]
    for package in [module for module in found if hasattr(module, "__path__")]:
        found += [
            importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)
        ]
    return found


MODULES = modules()


def has(holder: object, names: list[str]) -> bool:
    """Whether `holder.a.b` is there; the last may be a dataclass's field."""
    for place, name in enumerate(names):
        if isinstance(holder, ModuleType) and hasattr(holder, "__path__") and not hasattr(holder, name):
            try:
                importlib.import_module(f"{holder.__name__}.{name}")
            except ModuleNotFoundError:
                return False
        if not hasattr(holder, name):
            return place == len(names) - 1 and name in getattr(holder, "__annotations__", {})
        holder = getattr(holder, name)
    return True


def is_name(span: str) -> bool:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", span):
        return False
    names = span.split(".")
    return has(importlib.import_module("cascadexml"), names) or any(has(module, names) for module in MODULES)


def setting(key: str) -> Any:
    """The value of a key such as train.epochs; raises KeyError."""
    value = PARAMS
    for name in key.split("."):
        value = value[name]
    return value


def is_setting(span: str) -> bool:
    try:
        setting(span.partition(": ")[0])
    except (KeyError, TypeError):
        return False
    return True


def is_known(span: str) -> bool:
    return span in {"cascadexml", "make run", *STAGES} or is_setting(span) or is_name(span) or (REPO / span).exists()


def test_every_name_in_the_text_is_in_the_code() -> None:
    assert len(SPANS) > 80
    assert [span for span in SPANS if not is_known(span)] == []


@pytest.mark.parametrize("span", ["labels.tree.grow", "pick_short_list", "Head.row", "cluster.hop", "labels.trees"])
def test_a_name_that_is_not_there_is_seen(span: str) -> None:
    assert not is_known(span)


def test_values_of_settings_are_ones_that_they_may_have(tmp_path: Path) -> None:
    valued = [span.split(": ", 1) for span in SPANS if ": " in span]
    assert len(valued) > 5
    for key, value in valued:
        changed = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
        section, name = key.split(".")
        changed[section][name] = yaml.safe_load(value)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
        load_settings(tmp_path / "params.yaml")


def test_what_differs_from_the_paper_is_what_the_settings_say() -> None:
    table = PAGE.partition("## What differs from the paper")[2]
    for key, value in re.findall(r"`([a-z_.0-9]+): ([^`]+)`", table):
        assert setting(key) == yaml.safe_load(value), key
    told = re.search(r"\| length, rates \| [^|]* \| (\S+) epochs, (\S+) and (\S+) \(", table)
    assert told
    settings = (setting(f"train.{name}") for name in ("epochs", "encoder_lr", "head_lr"))
    assert [float(value) for value in told.groups()] == list(settings)


def dimensions() -> dict[str, list[int]]:
    """The last column of the table of dimensions, by the first."""
    table = PAGE.partition("## Dimensions")[2].partition("\n\nA document")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", table, flags=re.M)
    # A thousands separator stands between digits, the comma of a list before a space.
    return {name: [int(n.replace(",", "")) for n in re.findall(r"\d+(?:,\d{3})*", told)] for name, told in rows}


def test_the_samples_dimensions_are_those_that_the_code_derives() -> None:
    told = dimensions()
    counts = yaml.safe_load((REPO / "data/reports/validation/summary.json").read_text(encoding="utf-8"))
    train = counts["splits"]["train"]
    assert told["N"] == [train["kept"]]
    assert told["L"] == [train["distinct_labels"]]
    (L,) = told["L"]
    levels = derive_levels(L, setting("cluster.leaf_size"))
    tree = build_tree(sparse.csr_matrix((L, 1), dtype=np.float32), levels, seed=0)
    children = children_of_levels(tree)
    encoder = load_encoder(setting("encoder.name")).config
    config = derive_config(load_settings(REPO / "params.yaml").train, encoder.num_hidden_layers, tree)
    assert told["R"] == [len(children)]
    assert told["$C_r$"] == levels
    assert told["$P_r$"] == [c.size for c in children]
    assert told["$m_r$"] == [c.max() for c in children]
    assert told["$K_r$"] == list(config.shortlist)
    assert told["B, T"] == [setting("train.batch_size"), setting("tokenize.max_length")]
    assert told["d"] == [encoder.hidden_size]
    assert f"the bundled encoder of {encoder.num_hidden_layers} layers reads 5, 6 and 6" in PAGE
    assert default_taps(encoder.num_hidden_layers, 3) == ((5,), (6,), (6,))


def test_the_rows_scored_of_the_large_set_are_those_of_its_preset() -> None:
    preset = yaml.safe_load((REPO / "params/amazon-670k.yaml").read_text(encoding="utf-8"))
    levels, shortlist = preset["cluster"]["levels"], preset["train"]["shortlist"]
    most = [fine // coarse for coarse, fine in itertools.pairwise(levels)] + [-(-670_091 // levels[-1])]
    rows = [levels[0], *(K * m for K, m in zip(shortlist, most, strict=True))]
    assert f"{' + '.join(f'{n:,}' for n in rows)} = {sum(rows):,} rows instead of 670,091" in PAGE


def test_shapes_are_those_of_the_table(tmp_path: Path) -> None:
    L, B, T, K = 45, 3, 7, 6
    tree = build_tree(sparse.random(L, 30, 0.3, "csr", random_state=0), [4, 16], seed=0)
    settings = TrainSettings(taps=[[1, 2], [3], [4]], shortlist=[2, 5])
    model = CascadeXML(load_encoder(str(make_tiny_encoder("bert", tmp_path))), tree, derive_config(settings, 4, tree))
    d, R, C = model.encoder.config.hidden_size, 3, (4, 16)
    P, m, shortlist = (1, *C), (4, 4, 3), (2, 5)
    Y = sparse.random(B, L, 0.1, "csr", random_state=1)
    ids, mask = torch.randint(5, 100, (B, T)), torch.ones(B, T, dtype=torch.long)
    positives = LevelPositives(Y, tree).batch(np.arange(B), torch.device("cpu"))
    assert [h.shape for h in model.vectors(ids, mask)] == [(B, d)] * R
    assert model.joins[0].weight.shape == (d, 2 * d)
    outputs = model(ids, mask, positives)
    for r, (head, output) in enumerate(zip(model.heads, outputs, strict=True)):
        rows, biases = head.rows(head.slots)
        assert rows.shape == (P[r] * m[r], d)
        assert biases.shape == (P[r] * m[r],)
        scored = C[0] if r == 0 else shortlist[r - 1] * m[r]
        assert output.logits.shape == output.slots.shape == output.targets.shape == (B, scored)
    assert model.losses(outputs).shape == (B, R)
    assert [part.shape for part in model.eval().rank(ids, mask, K)] == [(B, K), (B, K)]


def test_the_figure_is_what_its_script_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "method.svg"
    subprocess.run([sys.executable, REPO / "tools" / "method_figure.py", drawn], check=True, timeout=60)
    assert drawn.read_bytes() == (REPO / "docs" / "images" / "method.svg").read_bytes()
