"""The label tree: what must hold for any features, and on real ones that it beats chance."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import sparse

from cascadexml.bundle import MANIFEST, Format
from cascadexml.config import ClusterSettings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import ConfigError, DataError, FormatError
from cascadexml.labels import halving
from cascadexml.labels import tree as tree_module
from cascadexml.labels.features import label_features
from cascadexml.labels.tree import LabelTree, build_tree, check_levels, derive_levels, extend_tree, tree_quality


def random_features(seed: int, L: int, V: int, density: float) -> sparse.csr_matrix:
    """Synthetic; some rows are empty, some equal."""
    random = np.random.default_rng(seed)
    return sparse.csr_matrix(random.integers(1, 4, (L, V)) * (random.random((L, V)) < density), dtype=np.float32)


FEATURES = st.builds(
    random_features, st.integers(0, 10_000), st.integers(1, 70), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.5])
)
LEVELS = st.lists(st.integers(1, 7), unique=True, max_size=4).map(lambda powers: [2**p for p in sorted(powers)])


@pytest.fixture(scope="session")
def real_features(small_corpus: Corpus) -> sparse.csr_matrix:
    train, L = small_corpus.splits["train"], small_corpus.vocabulary.L
    return label_features(train.texts, train.Y[:, :L], ClusterSettings(top_features=100))


def same(one: LabelTree, two: LabelTree) -> bool:
    return (
        (one.L, one.levels) == (two.L, two.levels)
        and np.array_equal(one.leaf_order, two.leaf_order)
        and all(np.array_equal(a, b) for a, b in zip(one.offsets, two.offsets, strict=True))
    )


@settings(deadline=None, max_examples=60)
@given(Z=FEATURES, levels=LEVELS, seed=st.integers(0, 3))
def test_every_tree_is_balanced_and_nested(Z: sparse.csr_matrix, levels: list[int], seed: int) -> None:
    L = Z.shape[0]
    tree = build_tree(Z, levels, seed)
    assert sorted(tree.leaf_order) == list(range(L))
    assert all(C <= L for C in tree.levels)
    assert set(tree.levels) >= {C for C in levels if C <= L}
    finer = np.arange(L)
    for level in reversed(range(len(tree.levels))):
        clusters = tree.cluster_of(level)
        sizes = np.bincount(clusters, minlength=tree.levels[level])
        assert sizes.size == tree.levels[level]
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1
        for c in range(sizes.size):
            members = tree.leaf_order[tree.offsets[level][c] : tree.offsets[level][c + 1]]
            assert sorted(members) == np.flatnonzero(clusters == c).tolist()
        # Labels that share a finer cluster share this one.
        assert len(set(zip(finer, clusters, strict=True))) == len(set(finer))
        finer = clusters
    assert same(tree, build_tree(Z, levels, seed))


def test_same_seed_same_tree_other_seed_other_tree(real_features: sparse.csr_matrix) -> None:
    trees = [build_tree(real_features, [8, 32], seed) for seed in (0, 0, 1)]
    assert same(trees[0], trees[1])
    assert not np.array_equal(trees[0].leaf_order, trees[2].leaf_order)


def test_coarser_levels_do_not_change_finer_ones(real_features: sparse.csr_matrix) -> None:
    both, one = build_tree(real_features, [4, 32], 0), build_tree(real_features, [32], 0)
    assert np.array_equal(both.leaf_order, one.leaf_order)
    assert np.array_equal(both.offsets[1], one.offsets[0])


def test_input_is_left_alone(real_features: sparse.csr_matrix) -> None:
    before = real_features.copy()
    build_tree(real_features, [4], 0)
    tree_quality(build_tree(real_features, [4], 0), real_features)
    assert (before != real_features).nnz == 0


def test_separate_topics_end_in_separate_clusters() -> None:
    # Synthetic: four topics with words of their own, in mixed order.
    random = np.random.default_rng(0)
    topics = random.permutation(np.repeat(np.arange(4), 16))
    dense = np.zeros((64, 40))
    for label, topic in enumerate(topics):
        dense[label, topic * 10 : topic * 10 + 10] = random.random(10) + 0.5
    tree = build_tree(sparse.csr_matrix(dense), [4], 0)
    assert len(set(zip(tree.cluster_of(0), topics, strict=True))) == 4


def test_splits_are_local_optima(real_features: sparse.csr_matrix) -> None:
    """No exchange of two labels between the halves would bring both nearer to their centroids."""
    tree = build_tree(real_features, [2], 0)
    Z = real_features.toarray() / np.linalg.norm(real_features.toarray(), axis=1, keepdims=True)
    first = tree.cluster_of(0) == 0
    centroids = [Z[first].sum(0), Z[~first].sum(0)]
    apart = Z @ (centroids[0] / np.linalg.norm(centroids[0]) - centroids[1] / np.linalg.norm(centroids[1]))
    assert apart[first].min() >= apart[~first].max() - 1e-5


@pytest.mark.parametrize("gram", [1, 40, 10_000])
def test_cosines_alone_halve_as_rows_do(
    real_features: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch, gram: int
) -> None:
    monkeypatch.setattr(tree_module, "GRAM", 0)
    monkeypatch.setattr(halving, "GRAM", 0)
    by_rows = build_tree(real_features, [8, 128], seed=3)
    monkeypatch.setattr(tree_module, "GRAM", gram)
    monkeypatch.setattr(halving, "GRAM", gram)
    assert same(build_tree(real_features, [8, 128], seed=3), by_rows)


@pytest.mark.parametrize("nodes", [1, 10_000])
def test_the_order_of_the_work_does_not_matter(
    real_features: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    tree = build_tree(real_features, [8, 128], seed=3)
    monkeypatch.setattr(tree_module, "GRAM", 30)
    monkeypatch.setattr(halving, "GRAM", 30)
    monkeypatch.setattr(tree_module, "NODES", nodes)
    monkeypatch.setattr(tree_module, "in_threads", map)
    assert same(build_tree(real_features, [8, 128], seed=3), tree)


def test_some_labels_of_a_very_large_node_halve_it_nearly_as_well_as_all(
    real_features: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_all = build_tree(real_features, [4, 32], seed=3)
    for module in (tree_module, halving):
        monkeypatch.setattr(module, "SAMPLE", real_features.shape[0] // 6)
    monkeypatch.setattr(halving, "CHUNK", 50)
    by_some = build_tree(real_features, [4, 32], seed=3)
    monkeypatch.setattr(halving, "in_threads", map)
    assert same(build_tree(real_features, [4, 32], seed=3), by_some)
    assert not same(by_some, by_all)
    tight, loose = (tree_quality(tree, real_features) for tree in (by_all, by_some))
    for C in (4, 32):
        assert loose[f"balance_{C}"] == tight[f"balance_{C}"]
        assert loose[f"cosine_{C}"] > 0.9 * tight[f"cosine_{C}"] + 0.1 * tight[f"random_cosine_{C}"]


def test_sums_that_follow_the_labels_that_move_halve_as_sums_made_anew(
    real_features: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = build_tree(real_features, [8, 128], seed=3)
    monkeypatch.setattr(halving, "MOVED", real_features.shape[0])
    assert same(build_tree(real_features, [8, 128], seed=3), followed)


def test_quality_equals_a_plain_computation(real_features: sparse.csr_matrix) -> None:
    L = real_features.shape[0]
    Z = sparse.vstack([real_features, sparse.csr_matrix((3, real_features.shape[1]))], format="csr")
    tree = build_tree(Z, [4, 32], 0)
    quality = tree_quality(tree, Z)
    dense = real_features.toarray().astype(np.float64)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    for level, C in enumerate(tree.levels):
        clusters = tree.cluster_of(level)
        cosines = []
        for c in range(C):
            members = dense[clusters[:L] == c]
            centroid = members.mean(0)
            cosines += [float(row @ centroid / np.linalg.norm(centroid)) for row in members]
        assert quality[f"cosine_{C}"] == pytest.approx(np.mean(cosines), abs=1e-5)
        sizes = np.bincount(clusters)
        assert quality[f"balance_{C}"] == pytest.approx(sizes.min() / sizes.max())
        assert quality[f"random_cosine_{C}"] < quality[f"cosine_{C}"]
    assert (quality["labels"], quality["labels_without_features"]) == (L + 3, 3)


@pytest.mark.parametrize("levels", [[], [2], [4, 16]])
def test_one_label(levels: list[int]) -> None:
    Z = sparse.csr_matrix(np.array([[1.0, 2.0]]))
    tree = build_tree(Z, levels, 0)
    assert tree.leaf_order.tolist() == [0]
    assert (tree.levels, tree.offsets, tree.L) == ((), (), 1)
    assert tree_quality(tree, Z) == {"labels": 1.0, "labels_without_features": 0.0}


def test_labels_without_features_only() -> None:
    tree = build_tree(sparse.csr_matrix((10, 5), dtype=np.float32), [4], 0)
    assert np.diff(tree.offsets[0]).tolist() == [2, 3, 2, 3]
    assert tree_quality(tree, sparse.csr_matrix((10, 5), dtype=np.float32))["cosine_4"] == 0.0


def test_levels_too_large_for_the_labels(caplog: pytest.LogCaptureFixture) -> None:
    assert check_levels([4, 64, 1024], 100) == [4, 64]
    assert "too large for 100 labels" in caplog.text
    assert check_levels([64, 1024], 33) == [32]
    assert check_levels([2], 1) == []


@pytest.mark.parametrize(
    ("levels", "message"),
    [([1000], "1024"), ([700], "512"), ([1], "2"), ([3], "2|4"), ([8, 8], "larger"), ([16, 4], "larger")],
)
def test_wrong_levels_are_refused(levels: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=f"cluster.levels.*({message})"):
        check_levels(levels, 10_000)


@settings(deadline=None, max_examples=200)
@given(L=st.integers(1, 5_000_000), leaf_size=st.integers(1, 1000))
def test_derived_levels_need_no_fitting(L: int, leaf_size: int) -> None:
    levels = derive_levels(L, leaf_size)
    assert check_levels(levels, L) == levels
    assert len(levels) <= (3 if L > 200_000 else 2)
    assert bool(levels) == (L > 1)
    if levels and 2 < levels[-1] and 2 * levels[-1] <= L:
        assert 0.66 * levels[-1] <= L / leaf_size <= 1.5 * levels[-1]


def test_derived_levels_of_known_sizes() -> None:
    assert derive_levels(4_524, 8) == [64, 512]
    assert derive_levels(13_330, 8) == [256, 2048]
    assert derive_levels(670_091, 8) == [1024, 8192, 65536]
    assert derive_levels(100, 8) == [16]
    assert derive_levels(2, 8) == [2]


@settings(deadline=None, max_examples=20)
@given(Z=FEATURES, levels=LEVELS)
def test_what_is_written_reads_back(
    Z: sparse.csr_matrix, levels: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tree")
    tree = build_tree(Z, levels, 0)
    tree.save(path / "one")
    tree.save(path / "two")
    assert same(LabelTree.load(path / "one"), tree)
    assert all(file.read_bytes() == (path / "two" / file.name).read_bytes() for file in (path / "one").iterdir())


@settings(deadline=None, max_examples=100)
@given(Z=FEATURES, old=st.floats(0.1, 1.0), levels=LEVELS)
def test_an_extended_tree_keeps_the_old_labels_and_takes_all_new_ones_in(
    Z: sparse.csr_matrix, old: float, levels: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    L = Z.shape[0]
    base = build_tree(Z[: max(1, int(old * L))], levels, 0)
    tree = extend_tree(base, Z)
    path = tmp_path_factory.mktemp("tree")
    tree.save(path / "tree")  # reading it back refuses a tree that is not sound
    assert same(LabelTree.load(path / "tree"), tree)
    assert (tree.L, tree.levels) == (L, base.levels)
    for level in range(len(base.levels)):
        assert np.array_equal(tree.cluster_of(level)[: base.L], base.cluster_of(level))
    assert np.array_equal(tree.leaf_order[tree.leaf_order < base.L], base.leaf_order)
    if base.levels:
        C, clusters = base.levels[-1], tree.cluster_of(len(base.levels) - 1)
        before, after = np.bincount(base.cluster_of(len(base.levels) - 1), minlength=C), np.bincount(clusters)
        assert after.max() <= max(before.max(), np.ceil(1.25 * L / C))
        for c in range(C):
            new = tree.leaf_order[tree.offsets[-1][c] : tree.offsets[-1][c + 1]][before[c] :]
            assert new.tolist() == sorted(new) and (new >= base.L).all()
    assert same(tree, extend_tree(base, Z))


@settings(deadline=None, max_examples=60)
@given(Z=FEATURES, old=st.floats(0.3, 0.9), power=st.integers(1, 4))
def test_a_new_label_is_nowhere_nearer_than_where_it_went_but_where_it_is_full(
    Z: sparse.csr_matrix, old: float, power: int
) -> None:
    L = Z.shape[0]
    base = build_tree(Z[: max(2, int(old * L))], [2**power], 0) if L > 2 else None
    if base is None or not base.levels:
        return
    C, clusters = base.levels[0], extend_tree(base, Z).cluster_of(0)
    dense = Z.toarray().astype(np.float64)
    dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)
    centroids = np.stack([dense[: base.L][base.cluster_of(0) == c].sum(0) for c in range(C)])
    centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    room = np.bincount(clusters, minlength=C) < max(np.diff(base.offsets[0]).max(), np.ceil(1.25 * L / C))
    for label in range(base.L, L):
        cosines = dense[label] @ centroids.T
        assert cosines[clusters[label]] >= cosines[room].max(initial=-1.0) - 1e-5


def test_extending_again_and_again_keeps_clusters_as_even_as_extending_once(real_features: sparse.csr_matrix) -> None:
    L = real_features.shape[0]
    tree = build_tree(real_features[: L // 2], [4, 32], 0)
    for size in np.linspace(L // 2, L, 9).astype(int):
        tree = extend_tree(tree, real_features[:size])
    assert tree.L == L
    assert np.diff(tree.offsets[-1]).max() <= np.ceil(1.25 * L / 32)


def test_new_labels_lie_nearer_to_their_clusters_than_chance(real_features: sparse.csr_matrix) -> None:
    L = real_features.shape[0]
    base = build_tree(real_features[: L * 9 // 10], [8, 32], 0)
    tree, Z = extend_tree(base, real_features, [8, 32]), real_features
    clusters = tree.cluster_of(1)
    centroids = sparse.vstack([sparse.csr_matrix(Z[: base.L][clusters[: base.L] == c].sum(0)) for c in range(32)])
    centroids = centroids.multiply(1 / sparse.linalg.norm(centroids, axis=1)[:, None]).tocsr()
    cosines = (Z[base.L :] @ centroids.T).toarray()
    chosen = cosines[np.arange(cosines.shape[0]), clusters[base.L :]]
    assert chosen.mean() > 2 * cosines.mean()


def test_levels_and_features_that_do_not_fit_the_tree_to_extend_are_refused(real_features: sparse.csr_matrix) -> None:
    base = build_tree(real_features, [8, 32], 0)
    with pytest.raises(ConfigError, match=r"cluster\.levels is \[8, 64\], the tree to start from has \[8, 32\]"):
        extend_tree(base, real_features, [8, 64])
    with pytest.raises(DataError, match=f"expected at least {base.L}, the labels of the tree"):
        extend_tree(base, real_features[:-1])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build_tree(random_features(0, 20, 6, 0.5), [4, 8], 0).save(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.mark.parametrize("file", ["tree.safetensors", MANIFEST])
def test_truncated_is_refused(saved: Path, file: str) -> None:
    (saved / file).write_bytes((saved / file).read_bytes()[:-2])
    with pytest.raises(FormatError):
        LabelTree.load(saved)


def test_tampered_is_refused(saved: Path) -> None:
    content = bytearray((saved / "tree.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "tree.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match="SHA-256"):
        LabelTree.load(saved)


def test_a_newer_format_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["version"] += 1
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="newer"):
        LabelTree.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"leaf_order": np.zeros(20, dtype=np.int64)},
        {"leaf_order": np.arange(19)},
        {"leaf_order": np.arange(20, dtype=np.int32)},
        {"offsets_0": np.array([0, 5, 10, 15, 19])},
        {"offsets_0": np.array([0, 10, 5, 15, 20])},
        {"offsets_0": np.array([0, 4, 10, 15, 20])},
        {"offsets_0": np.array([0, 10, 20])},
    ],
)
def test_arrays_that_are_no_tree_are_refused_even_with_right_digests(saved: Path, change: dict) -> None:
    arrays = load_file(saved / "tree.safetensors") | change
    with Format("cascadexml.tree", 1).write(saved, {"L": 20, "levels": [4, 8]}) as folder:
        save_file(arrays, folder / "tree.safetensors")
    with pytest.raises(FormatError, match="no label tree"):
        LabelTree.load(saved)
