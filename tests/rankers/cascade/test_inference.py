"""The path from tokens to labels, against the network called one document at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore, tokenize
from cascadexml.errors import PredictionError
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.inference import rank_tokens, rank_tokens_with_vectors
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.ranking import NO_LABEL
from tests.support.tiny_artifacts import MAX_LENGTH, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder

K = 6


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder("bert", tmp_path_factory.mktemp("encoder"), layers=2)


@pytest.fixture
def model(small_corpus: Corpus, encoder: Path) -> CascadeXML:
    return tiny_model(small_corpus, encoder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, encoder: Path, small_corpus: Corpus) -> TokenStore:
    tokenizer = load_tokenizer(str(encoder))
    path = tmp_path_factory.mktemp("tokens") / "test"
    return TokenStore.build(path, small_corpus.splits["test"].texts, tokenizer, MAX_LENGTH, processes=1)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_each_document_gets_its_own_ranking_and_vector(model: CascadeXML, store: TokenStore, batch_size: int) -> None:
    model.train()
    told: list[tuple[str, int, int]] = []
    ranking, vectors = rank_tokens_with_vectors(
        model, store, K, batch_size, lambda what, done, total, _: told.append((what, done, total))
    )
    assert model.training, "the mode it was in comes back"
    assert told[-1] == ("rank", len(store), len(store))
    model.eval()
    for n in range(len(store)):
        batch = store.batch(np.array([n]))
        rows, scores = model.rank(batch.input_ids, batch.attention_mask, K)
        assert np.allclose(ranking.scores[n], scores[0], rtol=0, atol=1e-5)
        assert len(set(ranking.labels[n].tolist()) & set(rows[0].tolist())) >= K - 1
        with torch.no_grad():
            expected = model.vectors(batch.input_ids, batch.attention_mask)[-1][0].numpy()
        np.testing.assert_allclose(vectors[n], expected, atol=1e-5)


def test_vectors_or_not_the_ranking_is_the_same(model: CascadeXML, store: TokenStore) -> None:
    plain, (with_vectors, _) = rank_tokens(model, store, K), rank_tokens_with_vectors(model, store, K)
    np.testing.assert_array_equal(plain.labels, with_vectors.labels)
    np.testing.assert_array_equal(plain.scores, with_vectors.scores)


def test_nothing_gives_an_empty_ranking(model: CascadeXML, encoder: Path, tmp_path: Path) -> None:
    empty = TokenStore.build(tmp_path / "empty", [], load_tokenizer(str(encoder)), MAX_LENGTH, processes=1)
    assert rank_tokens(model, empty, 3).shape == (0, 3)


def test_special_tokens_alone_are_no_content(model: CascadeXML, encoder: Path, tmp_path: Path) -> None:
    tokenizer, texts = load_tokenizer(str(encoder)), ["water", "\u200b", "", "water"]
    in_memory = tokenize(texts, tokenizer, MAX_LENGTH)
    on_disk = TokenStore.build(tmp_path / "tokens", texts, tokenizer, MAX_LENGTH, processes=1)
    for tokens in (in_memory, on_disk, in_memory.take(np.arange(4)), on_disk.take(np.arange(4))):
        told: list[tuple[int, int]] = []
        ranking, vectors = rank_tokens_with_vectors(
            model, tokens, K, 1, lambda what, done, total, _, told=told: told.append((done, total))
        )
        assert (ranking.labels[[1, 2]] == NO_LABEL).all() and (ranking.labels[[0, 3]] != NO_LABEL).all()
        assert np.isneginf(ranking.scores[[1, 2]]).all() and np.isfinite(ranking.scores[[0, 3]]).all()
        assert not vectors[[1, 2]].any() and vectors[[0, 3]].any()
        assert told == [(1, 2), (2, 2)], "and no time is spent on them"


def test_weights_that_are_no_numbers_are_an_error_and_no_empty_answer(model: CascadeXML, store: TokenStore) -> None:
    with torch.no_grad():
        model.heads[-1].bias[:] = torch.nan
    with pytest.raises(PredictionError, match=r"text \d+ has content and yet gets no label.*weights are damaged"):
        rank_tokens(model, store, K)


def test_running_out_of_memory_is_one_sentence(model: CascadeXML, store: TokenStore) -> None:
    class Greedy(CascadeXML):
        def vectors(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
            # More than any machine has: a real refusal by torch's allocator.
            return [torch.empty(2**55)]

    model.train()
    model.__class__ = Greedy
    with pytest.raises(PredictionError, match="cpu ran out of memory on a batch of 60 texts of 24 tokens: use"):
        rank_tokens(model, store, 3)
    assert model.training
