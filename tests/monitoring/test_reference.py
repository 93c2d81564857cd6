import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cascadexml.artifact.artifact import open_artifact
from cascadexml.artifact.formats import REFERENCE
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.held_out import Provenance, Seen, load_held_out, ranked_before, save_held_out, see
from cascadexml.monitoring.drift import compare
from cascadexml.monitoring.reference import Reference, make_reference
from cascadexml.rankers.base import Documents
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.loading import load_ranker
from cascadexml.rankers.popularity import Popularity
from tests.support.params import SETTINGS
from tests.support.tiny_artifacts import pack_again, pack_tiny, seen_held_out, tiny_reference

FEW_DRAWS = replace(SETTINGS.drift, draws=20)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    """A folder with encoder, model, artifact, tokens and reference."""
    folder = tmp_path_factory.mktemp("tiny")
    pack_tiny(folder, small_corpus)
    tiny_reference(folder, small_corpus)
    return folder


def ranker_in(tiny: Path) -> CascadeRanker:
    return load_ranker(tiny / "model", "cpu")


def test_a_ranker_without_vectors_leaves_them_out(tiny: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    popularity = Popularity.fit(small_corpus.splits["train"].Y)
    assert see(popularity, Documents(["some text"]), 10).vectors is None
    made = make_reference(small_corpus, seen_held_out(small_corpus, popularity), Calibration(), metadata=["type"])
    assert made.profile.vectors is None
    made.save(tmp_path / "reference")
    loaded = Reference.load(tmp_path / "reference")
    assert loaded.profile.vectors is None
    assert loaded.profile.table.equals(made.profile.table)
    assert loaded.profile.take(np.array([3, 1])).table.equals(made.profile.take(np.array([3, 1])).table)
    checks = compare(loaded, made.profile.take(np.arange(60)), FEW_DRAWS)
    whole = Reference.load(tiny / "reference")
    with_vectors = compare(whole, made.profile.take(np.arange(60)), FEW_DRAWS)
    assert {check.name for check in with_vectors} == {check.name for check in checks}, "one side without is enough"
    with_vectors = compare(whole, replace(made.profile, vectors=whole.profile.vectors), FEW_DRAWS)
    assert {check.name for check in with_vectors} - {check.name for check in checks} == {"embedding"}


def test_quality_and_labels_of_the_held_out_records(tiny: Path, small_corpus: Corpus) -> None:
    profile = Reference.load(tiny / "reference").profile
    assert len(profile) == 120
    ranker, L = ranker_in(tiny), small_corpus.vocabulary.L
    at = 0
    for name in ("dev", "test"):
        split = small_corpus.splits[name]
        ranking = ranker.rank(Documents(split.texts), 10)
        for n, labels in enumerate(ranking.labels[:, :5].tolist()):
            true = set(split.Y[n].indices.tolist())
            gain = sum(1 / math.log2(place + 2) for place, label in enumerate(labels) if label in true)
            best = sum(1 / math.log2(place + 2) for place in range(min(5, len(true))))
            row = {key: values[0] for key, values in profile.table.slice(at, 1).to_pydict().items()}
            assert row["nDCG@5"] == pytest.approx(gain / best)
            assert row["P@1"] == (labels[0] in true)
            assert row["labels"] == len(true)
            assert row["unseen_labels"] == sum(label >= L for label in true)
            assert row["characters"] == len(split.texts[n])
            assert row["type"] == split.metadata.column("type")[n].as_py()
            assert row["top_probability"] == pytest.approx(Calibration(0.3, 0.1).apply(ranking.scores[n : n + 1])[0, 0])
            at += 1


def test_it_reads_back_equal_and_holds_no_text(tiny: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    first = Reference.load(tiny / "reference")
    first.save(tmp_path / "again")
    second = Reference.load(tmp_path / "again")
    assert second.profile.table.equals(first.profile.table)
    assert first.profile.vectors is not None and second.profile.vectors is not None
    np.testing.assert_array_equal(second.profile.vectors, first.profile.vectors)
    train = small_corpus.splits["train"]
    np.testing.assert_array_equal(second.Y_train.toarray(), train.Y[:, : small_corpus.vocabulary.L].toarray())
    strings = [
        n for n in first.profile.table.column_names if pa.types.is_string(first.profile.table.schema.field(n).type)
    ]
    assert strings == ["type"]
    content = b"".join(file.read_bytes() for file in (tiny / "reference").iterdir())
    for split in small_corpus.splits.values():
        assert not any(text[:30].encode() in content for text in split.texts)
        assert not any(record_id.encode() in content for record_id in split.ids)


def test_records_are_drawn_from_both_splits_and_the_draw_is_seeded(tiny: Path, small_corpus: Corpus) -> None:
    ranker = ranker_in(tiny)
    tokens = {name: TokenStore.open(tiny / "tokens" / name) for name in ("dev", "test")}

    def made(seed: int) -> Reference:
        seen = seen_held_out(small_corpus, ranker, tokens)
        return make_reference(small_corpus, seen, Calibration(), records=50, seed=seed)

    one, same, other = made(0), made(0), made(1)
    assert sum(one.meta["records"].values()) == len(one.profile) == 50
    assert min(one.meta["records"].values()) > 10
    assert one.profile.table.equals(same.profile.table)
    assert not one.profile.table.equals(other.profile.table)
    again = make_reference(small_corpus, seen_held_out(small_corpus, ranker), Calibration(), records=50, seed=0)
    assert again.profile.table.equals(one.profile.table), "tokens or not"
    assert one.profile.vectors is not None and again.profile.vectors is not None
    np.testing.assert_array_equal(again.profile.vectors, one.profile.vectors)


def test_nothing_held_out_is_refused(tiny: Path, small_corpus: Corpus) -> None:
    bare = replace(small_corpus, splits={"train": small_corpus.splits["train"]})
    with pytest.raises(DataError, match=r"Neither dev nor test has a record"):
        make_reference(bare, {}, Calibration())


def test_what_was_said_of_other_records_is_refused(tiny: Path, small_corpus: Corpus) -> None:
    seen = seen_held_out(small_corpus, ranker_in(tiny))
    fewer = seen | {"test": seen["test"].take(np.arange(59))}
    with pytest.raises(DataError, match="What the ranker said of test is not of its 60 records"):
        make_reference(small_corpus, fewer, Calibration())
    with pytest.raises(DataError, match="What the ranker said of dev"):
        make_reference(small_corpus, {"test": seen["test"]}, Calibration())


def test_what_was_said_reads_back_and_damage_is_refused(tiny: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    seen = seen_held_out(small_corpus, ranker_in(tiny))
    provenance = Provenance("a" * 64, small_corpus.fingerprint, 10)
    save_held_out({"dev": seen["dev"], "test": Seen(seen["test"].ranking, None)}, provenance, tmp_path / "seen")
    again = load_held_out(tmp_path / "seen")
    for name, each in seen.items():
        np.testing.assert_array_equal(again[name].ranking.labels, each.ranking.labels)
        np.testing.assert_array_equal(again[name].ranking.scores, each.ranking.scores)
    assert again["test"].vectors is None
    assert seen["dev"].vectors is not None and again["dev"].vectors is not None
    np.testing.assert_array_equal(again["dev"].vectors, seen["dev"].vectors.astype(np.float16))
    of_two = Seen(seen["dev"].ranking, seen["dev"].vectors[:2])
    save_held_out({"dev": of_two}, provenance, tmp_path / "odd")
    with pytest.raises(FormatError, match=r"dev_vectors\.npy holds .* for 60 documents"):
        load_held_out(tmp_path / "odd")


def test_a_ranking_is_taken_only_as_that_of_its_ranker_records_and_width(tiny: Path, small_corpus: Corpus, tmp_path):
    seen = seen_held_out(small_corpus, ranker_in(tiny))
    provenance = Provenance("a" * 64, small_corpus.fingerprint, 10)
    save_held_out({"test": seen["test"]}, provenance, tmp_path / "seen")
    known = ranked_before(tmp_path / "seen", provenance, "test")
    assert known is not None
    np.testing.assert_array_equal(known.scores, seen["test"].ranking.scores)
    for other in ({"ranker": "b" * 64}, {"corpus": "b" * 64}, {"top_k": 11}):
        assert ranked_before(tmp_path / "seen", replace(provenance, **other), "test") is None, other
    assert ranked_before(tmp_path / "seen", provenance, "dev") is None
    with (tmp_path / "seen" / "test.npz").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\xff")
    with pytest.raises(FormatError, match=r"test\.npz differs from the SHA-256"):
        ranked_before(tmp_path / "seen", provenance, "test")


def test_a_damaged_reference_is_refused(tiny: Path, tmp_path: Path) -> None:
    Reference.load(tiny / "reference").save(tmp_path / "broken")
    with (tmp_path / "broken" / "vectors.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff")
    with pytest.raises(FormatError, match=r"vectors\.npy differs from the SHA-256"):
        Reference.load(tmp_path / "broken")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("label_offsets", lambda a: np.concatenate([[0, 10**6], a[2:]]), "indptr holds 0 to 1000000"),
        ("label_offsets", lambda a: a[:-1], "indptr has"),
        ("label_rows", lambda a: np.where(np.arange(a.size) == 3, 10**7, a), "indices holds 0 to 10000000"),
        ("label_rows", lambda a: a.astype(np.float32), "indices is 1-dimensional float32"),
    ],
)
def test_label_arrays_that_do_not_fit_are_refused_despite_a_right_manifest(
    tiny: Path, tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    found = Reference.load(tiny / "reference")
    with REFERENCE.write(tmp_path / "odd", found.meta) as folder:
        for file in ("records.parquet", "vectors.npy", "words.npy", "label_offsets.npy", "label_rows.npy"):
            shutil.copy(tiny / "reference" / file, folder)
        np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
    with pytest.raises(FormatError, match=said):
        Reference.load(tmp_path / "odd")


def test_an_artifact_carries_it_or_goes_without(tiny: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    assert open_artifact(tiny / "artifact").reference is None
    pack_again(tmp_path / "artifact", tiny, small_corpus, reference=tiny / "reference")
    carried = open_artifact(tmp_path / "artifact").reference
    assert carried is not None
    assert Reference.load(carried).profile.table.equals(Reference.load(tiny / "reference").profile.table)
    with pytest.raises(FormatError, match=r"cascadexml\.ranker\.cascade.*expected a 'cascadexml\.reference'"):
        pack_again(tmp_path / "other", tiny, small_corpus, reference=tiny / "model")
    assert not (tmp_path / "other").exists()
