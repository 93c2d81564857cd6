"""Warm starts: what an older model knew stays, new labels begin where their documents are."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from scipy import sparse

import stages
from cascadexml.artifact import open_artifact
from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.config import ClusterSettings, EvaluateSettings, TrainSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import ConfigError, DataError, FormatError
from cascadexml.labels.features import label_features
from cascadexml.labels.tree import LabelTree, build_tree, extend_tree, tree_quality
from cascadexml.metrics import evaluate, frequency_bins, inverse_propensities
from cascadexml.rankers.base import Documents
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.inference import rank_tokens
from cascadexml.rankers.cascade.network import FORMAT as NETWORK_FORMAT
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.popularity import Popularity
from stages import cluster
from tests.conftest import sample_records
from tests.support.hashing import hashed
from tests.support.params import SETTINGS
from tests.support.tiny_artifacts import pack_tiny
from tests.support.tiny_encoders import make_tiny_encoder
from tests.support.tiny_runs import prepare, train

# Dropout off, so that the base learns enough to be told from chance; two layers at the top, so that there is a join to
# copy; shortlists short of all clusters, so that the upper resolutions count.
NETWORK = {
    "taps": [[2, 3], [3], [4]],
    "shortlist": [7, 48],
    "dropout": [0.0],
    "encoder_dropout": 0.0,
    "pooling": "mean",
}
LEARN = {**NETWORK, "epochs": 15.0, "head_init": "centroid"}
START = {**NETWORK, "epochs": 0.0, "warm_start": True}


@dataclass(frozen=True)
class Runs:
    """A trained base over 200 records; folders that `prepare` wrote for them and for 300 with new labels."""

    old: Path
    new: Path
    base: Path
    before: Corpus
    after: Corpus


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("warm")
    records = sample_records("train", 300)
    dev = pa.Table.from_pylist(sample_records("dev", 60))
    before = Corpus.from_records({"train": pa.Table.from_pylist(records[:200]), "dev": dev}, {})
    after = Corpus.from_records({"train": pa.Table.from_pylist(records), "dev": dev}, {}, before.vocabulary)
    prepare(folder / "old", before)
    train(folder / "old", folder / "base" / "model", **LEARN)
    prepare(folder / "new", after, base=LabelTree.load(folder / "old" / "tree"))
    return Runs(folder / "old", folder / "new", folder / "base" / "model" / "network", before, after)


@pytest.fixture(scope="module")
def started(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> CascadeXML:
    """The base with new labels, before any step."""
    out = tmp_path_factory.mktemp("started") / "model"
    train(runs.new, out, base=runs.base, **START)
    return CascadeXML.load(out / "network")


@torch.no_grad()
def leaf_logits(model: CascadeXML, store: TokenStore) -> np.ndarray:
    """(N, L) logits of all labels in order of row, past the shortlists."""
    batch = store.batch(np.arange(len(store)))
    h = model.vectors(batch.input_ids, batch.attention_mask)[-1]
    logits, slots = model.heads[-1](h, None)
    labels = model.label_of_slot[slots[0]].numpy()
    return logits[:, np.argsort(labels)[(labels < 0).sum() :]].numpy()


def tokens(folder: Path, split: str) -> TokenStore:
    return TokenStore.open(folder / "tokens" / split)


def test_without_new_labels_and_steps_it_ranks_exactly_like_its_base(runs: Runs, tmp_path: Path) -> None:
    # Another seed and the other head_init: neither may matter.
    result = train(runs.old, tmp_path / "model", base=runs.base, seed=5, head_init="xavier", **START)
    assert (result.steps, result.best is not None) == (0, True)
    base, model = CascadeXML.load(runs.base), CascadeXML.load(tmp_path / "model" / "network")
    for split in ("train", "dev"):
        expected, found = (rank_tokens(m, tokens(runs.old, split), 50) for m in (base, model))
        assert np.array_equal(expected.labels, found.labels)
        assert np.array_equal(expected.scores, found.scores)
    cold = CascadeXML.load(train_cold(runs, tmp_path) / "network")
    assert not np.array_equal(rank_tokens(cold, tokens(runs.old, "dev"), 50).labels, expected.labels)


def train_cold(runs: Runs, tmp_path: Path) -> Path:
    train(runs.old, tmp_path / "cold" / "model", **{**START, "warm_start": False})
    return tmp_path / "cold" / "model"


def test_a_base_that_was_verified_starts_the_same_run_and_is_not_hashed_again(
    runs: Runs, started: CascadeXML, tmp_path: Path
) -> None:
    verified = NETWORK_FORMAT.read(runs.base)
    with hashed() as seen:
        train(runs.new, tmp_path / "model", base=verified, **START)
    assert seen.files
    assert not [file for file in seen.files if Path(file).is_relative_to(runs.base)]
    found = CascadeXML.load(tmp_path / "model" / "network").state_dict()
    assert all(torch.equal(found[name], value) for name, value in started.state_dict().items())


def test_old_labels_score_as_before_at_every_resolution(runs: Runs, started: CascadeXML) -> None:
    base, store = CascadeXML.load(runs.base), tokens(runs.new, "train")
    L = runs.before.vocabulary.L
    assert runs.after.vocabulary.ids[:L] == runs.before.vocabulary.ids[:L]
    assert started.tree.L == runs.after.vocabulary.L > L + 50
    # Not to the bit: the order of a product's sums may change with the number of its columns.
    np.testing.assert_allclose(leaf_logits(started, store)[:, :L], leaf_logits(base, store), rtol=0, atol=1e-4)
    for head, older in zip(started.heads[:-1], base.heads[:-1], strict=True):
        for ours, theirs in zip(head.rows(head.slots), older.rows(older.slots), strict=True):
            assert torch.equal(ours, theirs)
    batch = store.batch(np.arange(20))
    with torch.no_grad():
        for h, older in zip(*(m.vectors(batch.input_ids, batch.attention_mask) for m in (started, base)), strict=True):
            assert torch.equal(h, older)


def test_documents_of_new_labels_rank_them_far_above_chance(runs: Runs, started: CascadeXML) -> None:
    L_old, L = runs.before.vocabulary.L, runs.after.vocabulary.L
    ranking = rank_tokens(started, tokens(runs.new, "train"), 10)
    new = runs.after.splits["train"].Y.tocoo()
    pairs = [(d, label) for d, label in zip(new.row, new.col, strict=True) if label >= L_old]
    found = np.mean([label in ranking.labels[d] for d, label in pairs])
    assert len(pairs) > 100
    assert found > 20 * 10 / L
    assert found > 0.5


def test_new_labels_do_not_crowd_the_old_ones_out(runs: Runs, started: CascadeXML) -> None:
    """On documents without a new label, most of what the base had right stays right."""
    Y, L_old = runs.before.splits["train"].Y, runs.before.vocabulary.L
    store = tokens(runs.old, "train")
    rankings = [rank_tokens(model, store, 5).labels for model in (CascadeXML.load(runs.base), started)]
    hits = [np.mean([Y[d, label] > 0 for d, labels in enumerate(r) for label in labels if label < L_old])
            for r in rankings]  # fmt: skip
    right = [np.mean([sum(Y[d, label] > 0 for label in labels if label < L_old) for d, labels in enumerate(r)])
             for r in rankings]  # fmt: skip
    assert hits[0] > 0.2
    assert right[1] > 0.8 * right[0]


def test_new_rows_cost_one_pass_over_the_documents_that_have_new_labels(runs: Runs, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    train(runs.new, tmp_path / "model", base=runs.base,
          progress=lambda what, done, total, _: told.append((what, done, total)), **START)  # fmt: skip
    Y, L_old = runs.after.splits["train"].Y, runs.before.vocabulary.L
    having = int((np.diff(Y[:, L_old : runs.after.vocabulary.L].tocsr().indptr) > 0).sum())
    passes = [(n, N) for what, n, N in told if what == "rows of new labels"]
    assert passes[-1] == (having, having)
    assert having < Y.shape[0] / 2


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", [3, 15])
def test_an_interrupted_warm_start_goes_on_to_the_same_bits(runs: Runs, tmp_path: Path, moment: int) -> None:
    knobs = {**START, "epochs": 2.0, "dropout": [0.1], "checkpoint_minutes": 0.0, "evaluations_per_epoch": 4}
    train(runs.new, tmp_path / "whole" / "model", base=runs.base, **knobs)

    def die(step: int, figures: Mapping[str, float]) -> None:
        if step >= moment:
            raise Killed

    with pytest.raises(Killed):
        train(runs.new, tmp_path / "cut" / "model", base=runs.base, record=die, **knobs)
    train(runs.new, tmp_path / "cut" / "model", base=runs.base, **knobs)
    one, other = (load_file(tmp_path / name / "model" / "network" / "model.safetensors") for name in ("whole", "cut"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_another_base_is_another_run(runs: Runs, tmp_path: Path) -> None:
    """Its checkpoint is neither taken for this run's nor in its way."""
    other = CascadeXML.load(runs.base)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save(tmp_path / "other")

    def die(step: int, figures: Mapping[str, float]) -> None:
        if step > 10:
            raise Killed

    for base in (runs.base, tmp_path / "other", None):
        with pytest.raises(Killed):
            knobs = {**NETWORK, "checkpoint_minutes": 0.0}
            train(runs.old, tmp_path / "model", base=base, record=die, **knobs)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"taps": [[1], [2], [4]]}, r"train\.taps gives \[\[1\], \[2\], \[4\]\], the model at .* was trained with"),
        ({"pooling": "cls"}, r"train\.pooling gives cls, the model at .* was trained with mean: set it to that"),
    ],
)
def test_settings_that_do_not_fit_the_base_are_refused(runs: Runs, tmp_path: Path, knobs: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said + r".*set train\.warm_start to false\.$"):
        train(runs.new, tmp_path / "model", base=runs.base, **{**START, **knobs})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("architecture", "layers", "said"),
    [
        ("roberta", 4, "an encoder with model_type roberta, the model at .* has bert"),
        ("bert", 5, "an encoder with num_hidden_layers 5, the model at .* has 4"),
    ],
)
def test_another_encoder_is_refused(runs: Runs, tmp_path: Path, architecture: str, layers: int, said: str) -> None:
    shutil.copytree(runs.new, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "encoder")
    make_tiny_encoder(architecture, tmp_path / "run" / "encoder", layers)
    tokenizer = load_tokenizer(str(tmp_path / "run" / "encoder"))
    for name in ("train", "dev"):
        TokenStore.build(tmp_path / "run" / "tokens" / name, runs.after.splits[name].texts, tokenizer, 32, processes=1)
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", tmp_path / "model", base=runs.base, **START)


def test_a_tree_that_does_not_extend_the_base_is_refused(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.new, tmp_path / "run")
    random = sparse.random(runs.after.vocabulary.L, 20, 0.5, "csr", random_state=0)
    for levels, said in (([8, 64], "is not that of the model at"), ([4, 32], r"levels of \[4, 32\] clusters")):
        build_tree(random, levels, seed=0).save(tmp_path / "run" / "tree")
        with pytest.raises(ConfigError, match=said):
            train(tmp_path / "run", tmp_path / "model", base=runs.base, **START)


def test_a_warm_start_needs_a_whole_base(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no base was given"):
        train(runs.new, tmp_path / "model", **START)
    shutil.copytree(runs.base, tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        train(runs.new, tmp_path / "model", base=tmp_path / "base", **START)


def test_labels_that_have_no_document_any_more_break_nothing(runs: Runs, tmp_path: Path) -> None:
    """All 300 records come first, then 100 of them again: most labels of the base are left without a document."""
    tables = {"train": pa.Table.from_pylist(sample_records("train", 100)),
              "dev": pa.Table.from_pylist(sample_records("dev", 60))}  # fmt: skip
    corpus = Corpus.from_records(tables, {}, runs.after.vocabulary)
    L, documents, dev = corpus.vocabulary.L, corpus.splits["train"], corpus.splits["dev"]
    assert L == runs.after.vocabulary.L
    empty = np.bincount(documents.Y.indices, minlength=L)[:L] == 0
    assert empty.mean() > 0.5
    Z = label_features(documents.texts, documents.Y[:, :L], ClusterSettings())
    for tree in (build_tree(Z, [8, 64], 0), extend_tree(LabelTree.load(runs.new / "tree"), Z)):
        quality = tree_quality(tree, Z)
        assert quality["labels_without_features"] >= empty.sum()
        assert all(np.isfinite(value) for value in quality.values())
    weights = inverse_propensities(documents.Y, 0.55, 1.5)
    assert np.isfinite(weights).all() and (weights > 0).all()
    bins = frequency_bins(documents.Y, 10, 100)
    assert bins["unseen"][:L].tolist() == empty.tolist()

    prepare(tmp_path / "run", corpus, base=LabelTree.load(runs.new / "tree"))
    train(runs.new, tmp_path / "base" / "model", base=runs.base, **START)
    train(tmp_path / "run", tmp_path / "warm" / "model", base=tmp_path / "base" / "model" / "network",
          **{**START, "epochs": 0.5, "select": "PSP@5"})  # fmt: skip
    train(tmp_path / "run", tmp_path / "cold" / "model", **{**LEARN, "epochs": 0.5, "select": "PSP@5"})
    chosen = EvaluateSettings(bootstrap_samples=10)
    models = (CascadeXML.load(tmp_path / name / "model" / "network") for name in ("warm", "cold"))
    rankings = [rank_tokens(model, tokens(tmp_path / "run", "dev"), 20) for model in models]
    baselines = (
        Popularity.fit(documents.Y),
        NearestNeighbours.fit(Documents(documents.texts), documents.Y, 5),
    )
    rankings += [baseline.rank(Documents(dev.texts), 20) for baseline in baselines]
    for ranking in rankings:
        figures = evaluate(ranking, dev.Y, documents.Y, chosen, threshold=0.1).figures
        assert all(np.isfinite(value) for value in figures.values())


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Path:
    """An artifact over the labels of the older corpus, with random weights."""
    return pack_tiny(tmp_path_factory.mktemp("packed"), runs.before)


def test_the_base_must_be_there_and_hold_the_first_labels_of_the_corpus(runs: Runs, artifact: Path) -> None:
    assert open_predecessor(artifact, runs.after.vocabulary).vocabulary.ids == open_artifact(artifact).vocabulary().ids
    with pytest.raises(ConfigError, match=r"^train\.warm_start is true and nowhere does not exist: .* to false\.$"):
        open_predecessor(Path("nowhere"), runs.after.vocabulary)
    ids = runs.after.vocabulary.ids
    moved = replace(runs.after.vocabulary, ids=(ids[1], ids[0], *ids[2:]))
    with pytest.raises(DataError, match=r"labels are not those of .*: run dvc repro"):
        open_predecessor(artifact, moved)


def test_the_cluster_stage_extends_the_tree_of_the_base(
    runs: Runs, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs.after.save(stages.CORPUS)
    warm = replace(SETTINGS, train=TrainSettings(warm_start=True))
    with pytest.raises(ConfigError, match=r"data/base/artifact does not exist"):
        cluster.main(warm)
    shutil.copytree(artifact, stages.BASE)
    cluster.main(warm)
    tree, base = LabelTree.load(stages.TREE), LabelTree.load(artifact / "rankers" / "cascade" / "network" / "tree")
    assert (tree.L, tree.levels) == (runs.after.vocabulary.L, base.levels)
    assert np.array_equal(tree.cluster_of(0)[: base.L], base.cluster_of(0))
    # Settings of a cold start alone do not touch a tree that is there, levels that differ from its own are refused.
    with pytest.raises(ConfigError, match=r"cluster\.levels is \[32\], the tree to start from has \[16\]"):
        cluster.main(replace(warm, cluster=ClusterSettings(levels=[32])))
    cluster.main(SETTINGS)
    assert LabelTree.load(stages.TREE).levels != base.levels
