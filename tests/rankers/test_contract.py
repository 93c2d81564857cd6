"""What holds for every ranker, whatever its kind: the same properties over all of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cascadexml.bundle import MANIFEST
from cascadexml.config import LinearSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import FormatError
from cascadexml.rankers.base import Documents, Ranker, VectorRanker, ranker_bundle
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.onnx_ranker import OnnxRanker
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.ensemble import Ensemble
from cascadexml.rankers.exporting import export_ranker
from cascadexml.rankers.linear import LinearRanker
from cascadexml.rankers.loading import KINDS, load_ranker, ranker_class
from cascadexml.rankers.names import NamesRanker
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import NO_LABEL, Ranking
from tests.support.tiny_artifacts import MAX_LENGTH, tiny_blend, tiny_ensemble, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder

K = 20
BLANK = ["", "  ", "\n\t \u2003"]


def cascade(corpus: Corpus, folder: Path) -> CascadeRanker:
    encoder = make_tiny_encoder("bert", folder / "encoder", layers=2)
    return CascadeRanker(tiny_model(corpus, encoder), load_tokenizer(str(encoder)), MAX_LENGTH, batch_size=7)


def exported(corpus: Corpus, folder: Path) -> OnnxRanker:
    cascade(corpus, folder).save(folder / "cascade")
    export_ranker(ranker_bundle(folder / "cascade"), folder / "exported", "fp32")
    return OnnxRanker.load(folder / "exported", batch_size=7)


def ensemble(corpus: Corpus, folder: Path) -> Ensemble:
    encoder = make_tiny_encoder("bert", folder / "encoder", layers=2)
    return tiny_ensemble(corpus, encoder, batch_size=7)


def neighbours(corpus: Corpus, folder: Path) -> NearestNeighbours:
    train = corpus.splits["train"]
    return NearestNeighbours.fit(Documents(train.texts), train.Y[:, : corpus.vocabulary.L].tocsr(), 5)


def names(corpus: Corpus, folder: Path) -> NamesRanker:
    return NamesRanker.fit(corpus.vocabulary.names[: corpus.vocabulary.L], opening=12)


def popularity(corpus: Corpus, folder: Path) -> Popularity:
    return Popularity.fit(corpus.splits["train"].Y[:, : corpus.vocabulary.L].tocsr())


def linear(corpus: Corpus, folder: Path) -> LinearRanker:
    train = corpus.splits["train"]
    Y = train.Y[:, : corpus.vocabulary.L].tocsr()
    return LinearRanker.fit(Documents(train.texts), Y, LinearSettings(), seed=0)


def blend(corpus: Corpus, folder: Path) -> Blend:
    return tiny_blend(corpus, cascade(corpus, folder))


MADE: dict[str, Callable[[Corpus, Path], Ranker]] = {
    "blend": blend,
    "cascade": cascade,
    "cascade-onnx": exported,
    "ensemble": ensemble,
    "linear": linear,
    "names": names,
    "neighbours": neighbours,
    "popularity": popularity,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ranker(kind: str, small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    # Models this small only lose by waiting for other threads.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = MADE[kind](small_corpus, tmp_path_factory.mktemp(kind))
    torch.set_num_threads(before)
    return made


@pytest.fixture(scope="module")
def saved(ranker: Ranker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "ranker"
    ranker.save(folder)
    return folder


@pytest.fixture(scope="module")
def texts(small_corpus: Corpus) -> list[str]:
    return small_corpus.splits["test"].texts


def same(one: Ranking, other: Ranking) -> bool:
    """The same scores to 1e-6; labels may change places only where their scores are that close."""
    if not np.allclose(one.scores, other.scores, rtol=0, atol=1e-6):
        return False
    for n in range(len(one.labels)):
        theirs = dict(zip(other.labels[n].tolist(), other.scores[n].tolist(), strict=True))
        for label, score in zip(one.labels[n].tolist(), one.scores[n].tolist(), strict=True):
            last = float(other.scores[n][-1])
            if label != NO_LABEL and abs(theirs.get(label, last) - score) > 1e-6:
                return False
    return True


def some(ranking: Ranking, rows: list[int]) -> Ranking:
    return Ranking(ranking.labels[rows], ranking.scores[rows])


def test_every_kind_is_tested() -> None:
    assert set(MADE) == set(KINDS)


def test_it_is_what_its_kind_says(ranker: Ranker, kind: str, small_corpus: Corpus) -> None:
    assert ranker.kind == kind
    assert isinstance(ranker, ranker_class(kind))
    assert ranker.L == small_corpus.vocabulary.L
    assert isinstance(ranker, VectorRanker) == hasattr(ranker, "rank_with_vectors")


def test_a_ranking_is_well_formed(ranker: Ranker, texts: list[str]) -> None:
    ranking = ranker.rank(Documents(texts), K)
    assert ranking.shape == (len(texts), K)
    assert (ranking.labels.dtype, ranking.scores.dtype) == (np.int32, np.float32)
    given = ranking.labels != NO_LABEL
    assert given[:, 0].sum() > len(texts) / 2
    assert (given[:, :-1] | ~given[:, 1:]).all(), "padding stands at the end"
    assert ((ranking.labels >= 0) & (ranking.labels < ranker.L))[given].all()
    assert np.isfinite(ranking.scores[given]).all() and np.isneginf(ranking.scores[~given]).all()
    assert (ranking.scores[:, :-1] >= ranking.scores[:, 1:]).all()
    assert all(len(set(row[row != NO_LABEL].tolist())) == (row != NO_LABEL).sum() for row in ranking.labels)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_results_come_in_the_order_of_the_documents(ranker: Ranker, texts: list[str], seed: int) -> None:
    mixed = [*texts, *BLANK, texts[3]]
    order = np.random.default_rng(seed).permutation(len(mixed)).tolist()
    shuffled = ranker.rank(Documents([mixed[row] for row in order]), K)
    assert same(shuffled, some(ranker.rank(Documents(mixed), K), order))


def test_a_text_alone_ranks_as_in_any_batch(ranker: Ranker, texts: list[str]) -> None:
    together = ranker.rank(Documents(texts), K)
    for row, text in enumerate(texts):
        assert same(ranker.rank(Documents([text]), K), some(together, [row])), text


def test_more_labels_than_there_are_is_padded(ranker: Ranker, texts: list[str]) -> None:
    beyond = ranker.rank(Documents(texts[:9]), ranker.L + 5)
    assert beyond.shape == (9, ranker.L + 5)
    assert (beyond.labels[:, -5:] == NO_LABEL).all()
    assert np.isneginf(beyond.scores[:, -5:]).all()
    few = ranker.rank(Documents(texts[:9]), 3)
    assert same(few, Ranking(beyond.labels[:, :3], beyond.scores[:, :3]))


@pytest.mark.parametrize("blank", BLANK)
def test_a_text_without_content_gets_no_label(ranker: Ranker, texts: list[str], blank: str) -> None:
    ranking = ranker.rank(Documents([texts[0], blank, texts[1]]), K)
    assert (ranking.labels[1] == NO_LABEL).all()
    assert np.isneginf(ranking.scores[1]).all()
    assert same(some(ranking, [0, 2]), ranker.rank(Documents(texts[:2]), K))
    assert (ranker.rank(Documents([blank]), K).labels == NO_LABEL).all()


def test_no_documents_give_an_empty_ranking(ranker: Ranker) -> None:
    assert ranker.rank(Documents([]), K).shape == (0, K)
    assert ranker.rank(Documents(["some text"]), 0).shape == (1, 0)


def test_documents_already_tokenised_rank_as_their_texts(
    ranker: Ranker, texts: list[str], small_corpus: Corpus, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(make_tiny_encoder("bert", tmp_path / "encoder", layers=2)))
    whole = [*texts, "", "\u200b"]
    tokens = TokenStore.build(tmp_path / "tokens", whole, tokenizer, MAX_LENGTH, processes=1)
    documents = Documents(whole, tokens)
    from_texts, from_tokens = ranker.rank(Documents(whole), K), ranker.rank(documents, K)
    np.testing.assert_array_equal(from_tokens.labels, from_texts.labels)
    np.testing.assert_array_equal(from_tokens.scores, from_texts.scores)
    rows = np.array([7, 61, 3, 7, 60])
    assert same(ranker.rank(documents.take(rows), K), some(from_tokens, rows.tolist()))


def test_progress_is_told_to_the_end(ranker: Ranker, texts: list[str]) -> None:
    told: list[tuple[int, int]] = []
    ranker.rank(Documents(texts), K, progress=lambda what, done, total, figures: told.append((done, total)))
    assert told[-1] == (len(texts), len(texts))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_vectors_come_with_the_same_ranking(ranker: Ranker, texts: list[str]) -> None:
    if not isinstance(ranker, VectorRanker):
        assert not hasattr(ranker, "rank_with_vectors")
        return
    ranking, vectors = ranker.rank_with_vectors(Documents([*texts, ""]), K)
    plain = ranker.rank(Documents([*texts, ""]), K)
    np.testing.assert_array_equal(ranking.labels, plain.labels)
    np.testing.assert_array_equal(ranking.scores, plain.scores)
    assert vectors.dtype == np.float32 and len(vectors) == len(texts) + 1
    assert vectors[:-1].any(axis=1).all() and not vectors[-1].any()


def test_what_is_saved_ranks_equally(ranker: Ranker, kind: str, saved: Path, texts: list[str]) -> None:
    loaded = load_ranker(saved, "cpu", 7)
    assert type(loaded) is type(ranker)
    assert loaded.L == ranker.L
    expected, found = ranker.rank(Documents([*texts, ""]), K), loaded.rank(Documents([*texts, ""]), K)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert json.loads((saved / MANIFEST).read_text())["kind"] == f"cascadexml.ranker.{kind}"


def test_saving_twice_gives_the_same_bytes(ranker: Ranker, saved: Path, tmp_path: Path) -> None:
    load_ranker(saved, "cpu").save(tmp_path / "again")
    content = [
        {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (saved, tmp_path / "again")
    ]
    assert content[0] == content[1]


def test_nothing_on_disk_executes(saved: Path) -> None:
    suffixes = {file.suffix for file in saved.rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".npy", ".onnx", ".safetensors", ".txt"}
    for file in saved.rglob("*.npy"):
        np.load(file, allow_pickle=False)


def test_another_bundle_is_refused_by_name(kind: str, saved: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    small_corpus.save(tmp_path / "corpus")
    for other in set(KINDS) - {kind}:
        with pytest.raises(FormatError, match=rf"ranker\.{kind}', expected a 'cascadexml\.ranker\.{other}'"):
            ranker_class(other).load(saved, "cpu")
    with pytest.raises(FormatError, match=r"is a 'cascadexml\.corpus', expected a 'cascadexml\.ranker"):
        ranker_class(kind).load(tmp_path / "corpus", "cpu")


def test_every_changed_byte_is_refused(saved: Path, tmp_path: Path) -> None:
    files = [file for file in saved.rglob("*") if file.is_file()]
    assert len(files) > 1
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        try:
            with pytest.raises(FormatError, match=file.name.replace(".", r"\.")):
                load_ranker(saved, "cpu")
        finally:
            file.write_bytes(content)


def test_what_is_no_ranker_is_refused(small_corpus: Corpus, tmp_path: Path) -> None:
    small_corpus.save(tmp_path / "corpus")
    with pytest.raises(FormatError, match=r"is a 'cascadexml\.corpus', expected a ranker \(blend, cascade,"):
        load_ranker(tmp_path / "corpus")
    with pytest.raises(FormatError, match=r"holds no manifest\.json"):
        load_ranker(tmp_path)
    with pytest.raises(FormatError, match=r"no ranker of kind 'oracle': expected one of blend"):
        ranker_class("oracle")
    for odd in ("cascadexml.ranker.oracle", "popularity"):
        (tmp_path / MANIFEST).write_text(json.dumps({"kind": odd}))
        with pytest.raises(FormatError, match=f"is a '{odd}', expected a ranker"):
            load_ranker(tmp_path)
    (tmp_path / MANIFEST).write_text('{"kind": 3}')
    with pytest.raises(FormatError, match=r"gives no kind"):
        load_ranker(tmp_path)


@pytest.mark.parametrize("wrong", ["one text", ["fine", None], ["fine", 3], [["nested"]]])
def test_what_are_no_texts_are_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="expected"):
        Documents(wrong)  # type: ignore[arg-type]


def test_tokens_of_other_documents_are_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(make_tiny_encoder("bert", tmp_path / "encoder", layers=2)))
    tokens = TokenStore.build(tmp_path / "tokens", ["one", "two"], tokenizer, MAX_LENGTH, processes=1)
    with pytest.raises(ValueError, match="1 texts and the tokens of 2 are not the same documents"):
        Documents(["one"], tokens)
