"""The ensemble on real records with tiny random networks: what it promises beyond the contract of rankers."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cascadexml.data.corpus import Corpus
from cascadexml.errors import FormatError
from cascadexml.rankers import ensemble as module
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.cascade import ranker as cascade_module
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.ensemble import DEPTH, FORMAT, Ensemble, join, load_cascade, mean_ranking
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import NO_LABEL, Ranking
from tests.conftest import sample_records
from tests.support.tiny_artifacts import MAX_LENGTH, tiny_blend, tiny_ensemble, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder("bert", tmp_path_factory.mktemp("encoder") / "encoder", layers=2)


@pytest.fixture(scope="module")
def ensemble(small_corpus: Corpus, encoder: Path) -> Ensemble:
    return tiny_ensemble(small_corpus, encoder, members=3)


@pytest.fixture(scope="module")
def documents(small_corpus: Corpus) -> Documents:
    return Documents([*small_corpus.splits["test"].texts, ""])


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def named(ranking: Ranking, row: int) -> dict[int, float]:
    pairs = zip(ranking.labels[row].tolist(), ranking.scores[row].tolist(), strict=True)
    return {label: score for label, score in pairs if label != NO_LABEL}


def test_a_label_s_score_is_the_mean_of_what_the_members_say(ensemble: Ensemble, documents: Documents) -> None:
    found = ensemble.rank(documents, 5 * DEPTH)
    members = [member.rank(documents, DEPTH) for member in ensemble.members]
    assert len({tuple(ranking.labels[0]) for ranking in members}) == 3, "the members must differ"
    for row in range(len(documents) - 1):
        said = [named(ranking, row) for ranking in members]
        lowest = [min(scores.values()) if len(scores) == DEPTH else 0.0 for scores in said]
        expected = {
            label: sum(scores.get(label, low) for scores, low in zip(said, lowest, strict=True)) / 3
            for label in set().union(*said)
        }
        assert named(found, row) == pytest.approx(expected, rel=1e-5)
        assert DEPTH < len(expected) <= 3 * DEPTH
    assert not named(found, len(documents) - 1)


def test_where_a_member_names_few_labels_the_others_count_as_0_there() -> None:
    full = Ranking(np.array([[3, 1]], dtype=np.int32), np.array([[0.9, 0.4]], dtype=np.float32))
    short = Ranking(np.array([[2, NO_LABEL]], dtype=np.int32), np.array([[0.5, -np.inf]], dtype=np.float32))
    found = mean_ranking([full, short], 4, L=5)
    assert found.labels.tolist() == [[2, 3, 1, NO_LABEL]]
    np.testing.assert_allclose(found.scores[0, :3], [(0.4 + 0.5) / 2, 0.9 / 2, 0.4 / 2], rtol=1e-6)


def test_in_chunks_it_ranks_the_same(ensemble: Ensemble, documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ensemble.rank(documents, 10)
    monkeypatch.setattr(module, "_DOCUMENTS_A_CHUNK", 7)
    parts = ensemble.rank(documents, 10)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.scores, whole.scores)


def test_vectors_are_the_first_member_s_and_texts_are_tokenised_once(
    ensemble: Ensemble, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, tokenize = [], cascade_module.tokenize

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return tokenize(*arguments)  # type: ignore[arg-type]

    _, expected = ensemble.members[0].rank_with_vectors(documents, 1)
    monkeypatch.setattr(cascade_module, "tokenize", counted)
    _, vectors = ensemble.rank_with_vectors(documents, 5)
    np.testing.assert_array_equal(vectors, expected)
    assert len(calls) == 1


def test_members_joined_unloaded_are_the_bytes_that_saving_gives(ensemble: Ensemble, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "saved")
    for i, member in enumerate(ensemble.members):
        member.save(tmp_path / str(i))
    join([tmp_path / str(i) for i in range(3)], tmp_path / "joined")
    assert content(tmp_path / "joined") == content(tmp_path / "saved")
    damaged = tmp_path / "1" / "network" / "config.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"0.1", b"0.2"))
    with pytest.raises(FormatError, match=r"config\.json"):
        join([tmp_path / str(i) for i in range(3)], tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_members_that_do_not_belong_together_are_refused(ensemble: Ensemble, tmp_path: Path) -> None:
    first, second, _ = ensemble.members
    with pytest.raises(ValueError, match="an ensemble of 1, expected two members or more"):
        Ensemble([first])
    with pytest.raises(ValueError, match="differ in their tokens a text"):
        Ensemble([first, replace(second, max_length=MAX_LENGTH + 1)])
    other = make_tiny_encoder("mpnet", tmp_path / "other", layers=2)
    with pytest.raises(ValueError, match="differ in their tokenizers"):
        Ensemble([first, replace(second, tokenizer=load_tokenizer(str(other)))])
    fewer = Corpus.from_records({"train": pa.Table.from_pylist(sample_records("train", 200))}, {})
    model = tiny_model(fewer, tmp_path / "other")
    with pytest.raises(ValueError, match="differ in their labels"):
        Ensemble([first, replace(second, network=model)])


@pytest.mark.parametrize("meta", [{"L": 5}, {"L": 5, "members": "two"}, {"L": 5, "members": 1}])
def test_a_bundle_that_does_not_fit_its_manifest_is_refused(
    ensemble: Ensemble, meta: dict[str, object], tmp_path: Path
) -> None:
    ensemble.members[0].save(tmp_path / "member")
    with FORMAT.write(tmp_path / "odd", meta) as folder:
        shutil.copytree(tmp_path / "member", folder / "member_0")
    with pytest.raises(FormatError, match=r"cannot be read as an ensemble \(.*\): make it again"):
        Ensemble.load(tmp_path / "odd", "cpu")


def test_a_network_or_an_ensemble_stands_where_a_cascade_is_wanted_and_nothing_else(
    ensemble: Ensemble, small_corpus: Corpus, tmp_path: Path
) -> None:
    ensemble.save(tmp_path / "ensemble")
    ensemble.members[0].save(tmp_path / "one")
    Popularity.fit(small_corpus.splits["train"].Y[:, : small_corpus.vocabulary.L].tocsr()).save(tmp_path / "popular")
    assert load_cascade(tmp_path / "ensemble", "cpu").kind == "ensemble"
    assert load_cascade(tmp_path / "one", "cpu").kind == "cascade"
    with pytest.raises(FormatError, match=r"is a 'cascadexml\.ranker\.popularity', expected a network or an ensemble"):
        load_cascade(tmp_path / "popular", "cpu")


def test_a_blend_takes_it_as_its_cascade(
    ensemble: Ensemble, small_corpus: Corpus, documents: Documents, tmp_path: Path
) -> None:
    blend = tiny_blend(small_corpus, ensemble)
    blend.save(tmp_path / "blend")
    loaded = Blend.load(tmp_path / "blend", "cpu")
    assert loaded.sources.cascade.kind == "ensemble"
    expected, found = blend.rank(documents, 10), loaded.rank(documents, 10)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    _, vectors, sources = loaded.rank_with_sources(documents, 10)
    np.testing.assert_array_equal(sources["cascade"].labels, ensemble.rank(documents, 100).labels)
    assert loaded.sources.vectors is not None
    assert loaded.sources.vectors.X.shape == (300, vectors.shape[1])
