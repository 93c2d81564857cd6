"""fit() on real records with a tiny random encoder."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import ConfigError, FormatError, TrainingError
from cascadexml.metrics import document_metrics, inverse_propensities
from cascadexml.rankers.base import Documents
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.loading import load_ranker
from tests.support.tiny_encoders import make_tiny_encoder
from tests.support.tiny_runs import prepare, train


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return prepare(tmp_path_factory.mktemp("run"), small_corpus)


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "network" / "model.safetensors")


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert set(a) == set(b)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def furthest(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(("heads", "negatives"), [("dense", "shortlist"), ("lean", "shortlist"), ("lean", "all")])
def test_training_learns_what_it_is_shown(
    prepared: Path, tmp_path: Path, small_corpus: Corpus, heads: str, negatives: str
) -> None:
    seen: list[tuple[int, Mapping[str, float]]] = []
    knobs = {"epochs": 25, "dropout": [0.0], "encoder_dropout": 0.0, "select": "P@1"}
    knobs |= {"heads": heads, "lean_lr": 0.1, "negatives": negatives}
    result = train(prepared, tmp_path / "model", dev="train", record=lambda s, f: seen.append((s, f)), **knobs)
    levels = [figures for _, figures in seen if "loss/total" in figures]
    assert levels[-1]["loss/total"] < 0.2 * levels[0]["loss/total"]
    for figures in levels:
        assert figures["loss/total"] == pytest.approx(sum(figures[f"loss/level_{r}"] for r in range(3)), rel=1e-5)
    dev = [figures["dev/P@1"] for _, figures in seen if "dev/P@1" in figures]
    assert (result.steps, len(dev), result.best) == (250, 25, max(dev))

    model = CascadeXML.load(tmp_path / "model" / "network")
    store = TokenStore.open(prepared / "tokens" / "train")
    batch = store.batch(np.arange(len(store)))
    labels, _ = model.rank(batch.input_ids, batch.attention_mask, 1)
    Y = small_corpus.splits["train"].Y.toarray()
    hits = Y[np.arange(len(store)), labels[:, 0].numpy()].mean()
    assert hits == pytest.approx(result.best)
    assert hits > 5 * Y.mean(0).max()


def test_the_best_weights_are_kept_and_not_the_last(prepared: Path, tmp_path: Path, small_corpus: Corpus) -> None:
    seen: list[float] = []

    def record(step: int, figures: Mapping[str, float]) -> None:
        seen.extend([figures["dev/nDCG@5"]] if "dev/nDCG@5" in figures else [])

    # So fast that it unlearns again.
    result = train(prepared, tmp_path / "model", record=record, epochs=6.0, head_lr=0.3, select="nDCG@5")
    assert max(seen) > seen[-1]
    assert result.best == max(seen)
    dev = small_corpus.splits["dev"]
    ranking = load_ranker(tmp_path / "model", "cpu").rank(Documents(dev.texts), 5)
    figures = document_metrics(ranking, dev.Y, [5], inverse_propensities(small_corpus.splits["train"].Y, 0.55, 1.5))
    assert figures["nDCG@5"].mean() == pytest.approx(max(seen))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(prepared: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(prepared, tmp_path / name / "model", seed=seed)
    assert_same_bits(tmp_path / "a" / "model", tmp_path / "b" / "model")
    assert furthest(tmp_path / "a" / "model", tmp_path / "c" / "model") > 1e-3


def test_micro_batches_change_nothing_but_rounding(prepared: Path, tmp_path: Path) -> None:
    # No dropout: its draws are those of a micro-batch.
    quiet = {"dropout": [0.0] * 3, "encoder_dropout": 0.0, "epochs": 1.0}
    train(prepared, tmp_path / "a" / "model", **quiet)
    train(prepared, tmp_path / "b" / "model", micro_batch_size=5, **quiet)
    assert furthest(tmp_path / "a" / "model", tmp_path / "b" / "model") < 1e-4


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("moment", "heads", "negatives"),
    [(9, "dense", "shortlist"), (17, "dense", "all"), (17, "lean", "shortlist"), (17, "lean", "all")],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    prepared: Path, tmp_path: Path, moment: int, heads: str, negatives: str
) -> None:
    # 13 steps an epoch: checkpoints, after every tenth step, lie in the middle of one.
    knobs: dict[str, Any] = {"evaluations_per_epoch": 3, "checkpoint_minutes": 0.0, "heads": heads}
    knobs |= {"negatives": negatives, "batch_size": 24, "micro_batch_size": 24}
    whole: list[tuple[int, Mapping[str, float]]] = []
    train(prepared, tmp_path / "whole" / "model", record=lambda s, f: whole.append((s, f)), **knobs)

    def die(step: int, figures: Mapping[str, float]) -> None:
        if step >= moment:
            raise Killed

    with pytest.raises(Killed):
        train(prepared, tmp_path / "cut" / "model", record=die, **knobs)
    assert not (tmp_path / "cut" / "model").exists()
    again: list[tuple[int, Mapping[str, float]]] = []
    train(prepared, tmp_path / "cut" / "model", record=lambda s, f: again.append((s, f)), **knobs)
    assert_same_bits(tmp_path / "whole" / "model", tmp_path / "cut" / "model")
    assert list((tmp_path / "cut" / "checkpoints").iterdir()) == []
    assert [step for step, _ in again] == [step for step, _ in whole]
    for (_, one), (_, other) in zip(whole, again, strict=True):
        assert {k: v for k, v in one.items() if "loss" in k or "dev" in k} == {
            k: v for k, v in other.items() if "loss" in k or "dev" in k
        }


def cut_short(prepared: Path, tmp_path: Path) -> Path:
    """The last checkpoint of a run that died after its first report, at step 10."""
    with pytest.raises(Killed):
        train(prepared, tmp_path / "model", record=_die, checkpoint_minutes=0.0)
    (last,) = (tmp_path / "checkpoints").glob("*/last")
    return last


def test_a_checkpoint_of_another_run_is_refused_by_name(prepared: Path, tmp_path: Path) -> None:
    last = cut_short(prepared, tmp_path)
    with pytest.raises(Killed):
        train(prepared, tmp_path / "model", record=_die, checkpoint_minutes=0.0, head_lr=0.02)
    (other,) = (p for p in (tmp_path / "checkpoints").iterdir() if p != last.parent)
    (other / "last").rename(last.parent / "other")
    last.rename(last.parent / "mine")
    (last.parent / "other").rename(last)
    with pytest.raises(TrainingError, match="other settings or data"):
        train(prepared, tmp_path / "model", checkpoint_minutes=0.0)


def _die(step: int, figures: Mapping[str, float]) -> None:
    if step > 10:
        raise Killed


@pytest.mark.parametrize("file", ["optimizer.safetensors", "model.safetensors", "curves.json"])
def test_a_damaged_checkpoint_is_refused_by_name(prepared: Path, tmp_path: Path, file: str) -> None:
    last = cut_short(prepared, tmp_path)
    content = (last / file).read_bytes()
    (last / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match=file):
        train(prepared, tmp_path / "model", checkpoint_minutes=0.0)


def test_a_checkpoint_of_a_newer_format_is_refused(prepared: Path, tmp_path: Path) -> None:
    last = cut_short(prepared, tmp_path)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest["version"] += 1
    (last / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="newer cascadexml"):
        train(prepared, tmp_path / "model", checkpoint_minutes=0.0)


def test_a_loss_that_is_not_finite_stops_with_one_sentence(
    prepared: Path, tmp_path: Path, small_corpus: Corpus
) -> None:
    folder = prepare(tmp_path / "run", small_corpus)
    file = folder / "encoder" / "model.safetensors"
    broken = load_file(file)
    broken["embeddings.word_embeddings.weight"][:] = torch.inf
    save_file(broken, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"the loss became nan between steps 0 and 10 of 20: lower"):
        train(folder, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_that_diverge_between_two_reports_stop_before_dev_is_ranked(prepared: Path, tmp_path: Path) -> None:
    knobs = {"head_lr": 1e38, "evaluations_per_epoch": 5, "warmup_epochs": 0.0}
    with pytest.raises(TrainingError, match=r"a weight is no finite number after step [248] of 20: lower train\.enc"):
        train(prepared, tmp_path / "model", **knobs)
    assert not (tmp_path / "model").exists()


def test_what_it_writes_is_a_ranker_with_the_tokenizer_of_its_tokens(
    prepared: Path, tmp_path: Path, small_corpus: Corpus
) -> None:
    result = train(prepared, tmp_path / "model", select="P@1")
    dev = small_corpus.splits["dev"]
    ranker = load_ranker(tmp_path / "model", "cpu")
    from_texts = ranker.rank(Documents(dev.texts), 5)
    from_tokens = ranker.rank(Documents(dev.texts, TokenStore.open(prepared / "tokens" / "dev")), 5)
    assert np.array_equal(from_texts.labels, from_tokens.labels)
    assert np.array_equal(from_texts.scores, from_tokens.scores)
    hits = np.asarray(dev.Y[np.arange(len(dev)), from_texts.labels[:, 0]]).ravel()
    assert hits.mean() == pytest.approx(result.best)


def test_tokens_of_another_tokenizer_are_refused(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "encoder")
    make_tiny_encoder("mpnet", tmp_path / "run" / "encoder")
    with pytest.raises(ConfigError, match=r"tokens were not made by the tokenizer of .*encoder: tokenize again"):
        train(tmp_path / "run", tmp_path / "model")


def test_running_out_of_memory_is_one_sentence(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(network: CascadeXML, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        # More than any machine has: a real refusal by torch's allocator.
        return [torch.empty(2**55)]

    monkeypatch.setattr(CascadeXML, "vectors", greedy)
    with pytest.raises(TrainingError, match=r"out of memory on cpu with micro-batches of 32 texts: lower train\.micro"):
        train(prepared, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_training_stops_early_when_dev_gains_nothing(prepared: Path, tmp_path: Path) -> None:
    knobs = {"encoder_lr": 0.0, "head_lr": 0.0, "epochs": 10.0, "patience": 2}
    result = train(prepared, tmp_path / "model", **knobs)
    assert (result.steps, result.best_step) == (30, 10)


def test_centroids_rank_their_own_documents_before_any_step(prepared: Path, tmp_path: Path) -> None:
    # Even a random encoder places a text near the mean of its label's texts; random rows rank no better than chance.
    knobs = {"epochs": 0.0, "select": "P@1", "pooling": "mean"}
    started = train(prepared, tmp_path / "a" / "model", dev="train", head_init="centroid", **knobs)
    chance = train(prepared, tmp_path / "b" / "model", dev="train", head_init="xavier", **knobs)
    assert started.steps == 0
    assert started.best is not None and chance.best is not None
    assert started.best > 0.5 > 10 * chance.best


def test_frozen_layers_keep_their_weights(prepared: Path, tmp_path: Path) -> None:
    train(prepared, tmp_path / "model", freeze_layers=2, encoder_lr=0.1)
    before, after = load_file(prepared / "encoder" / "model.safetensors"), weights(tmp_path / "model")
    changed = {name for name in before if not torch.equal(before[name], after.get(f"encoder.{name}", before[name]))}
    assert any(".layer.3." in name for name in changed)
    assert not [name for name in changed if "embeddings" in name or ".layer.0." in name or ".layer.1." in name]


def test_dev_is_measured_with_the_propensities_that_the_settings_give(
    prepared: Path, tmp_path: Path, small_corpus: Corpus
) -> None:
    dev, train_labels = small_corpus.splits["dev"], small_corpus.splits["train"].Y
    measured = []
    for a, b in ((0.55, 1.5), (1.5, 0.1)):
        out = tmp_path / str(a) / "model"
        result = train(prepared, out, propensity=(a, b), select="PSP@3", epochs=0.0, head_init="centroid")
        ranking = load_ranker(out, "cpu").rank(Documents(dev.texts), 3)
        expected = document_metrics(ranking, dev.Y, [3], inverse_propensities(train_labels, a, b))["PSP@3"].mean()
        assert result.best == pytest.approx(expected)
        measured.append(result.best)
    assert measured[0] != pytest.approx(measured[1])


def test_bf16_trains_in_less_than_full_precision_and_learns_all_the_same(prepared: Path, tmp_path: Path) -> None:
    knobs = {"epochs": 7.0, "dropout": [0.0], "select": "P@1"}
    seen: list[float] = []

    def record(step: int, figures: Mapping[str, float]) -> None:
        seen.extend([figures["loss/total"]] if "loss/total" in figures else [])

    train(prepared, tmp_path / "bf16" / "model", record=record, precision="bf16", **knobs)
    assert seen[-1] < 0.5 * seen[0]
    half = weights(tmp_path / "bf16" / "model")
    assert {value.dtype for value in half.values()} == {torch.float32}
    for precision in ("bf16", "fp32"):
        train(prepared, tmp_path / f"short-{precision}" / "model", precision=precision, **{**knobs, "epochs": 1.0})
    assert furthest(tmp_path / "short-bf16" / "model", tmp_path / "short-fp32" / "model") > 1e-4
    ranking = load_ranker(tmp_path / "bf16" / "model", "cpu").rank(Documents(["steel bridges"]), 3)
    assert np.isfinite(ranking.scores).all()


def test_an_unknown_selection_metric_is_refused_before_any_work(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nDCG@5"):
        train(prepared, tmp_path / "model", select="nDGC@5")
