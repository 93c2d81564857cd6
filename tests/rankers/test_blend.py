"""The blend on real records with a tiny random network: what it promises beyond the contract of rankers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cascadexml.config import BlendSettings, LinearSettings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import FormatError
from cascadexml.metrics import document_metrics
from cascadexml.rankers import blend as module
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import FORMAT, MIXED, Blend, Figures, Sources, candidates
from cascadexml.rankers.brevity import Brevity, windows_of
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.mixture import DECISIVE, Mixture, fit_mixture
from cascadexml.ranking import Ranking
from tests.support.tiny_artifacts import MAX_LENGTH, tiny_blend, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder


@pytest.fixture(scope="module")
def blend(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Blend:
    encoder = make_tiny_encoder("bert", tmp_path_factory.mktemp("encoder") / "encoder", layers=2)
    return tiny_blend(
        small_corpus, CascadeRanker(tiny_model(small_corpus, encoder), load_tokenizer(str(encoder)), MAX_LENGTH)
    )


def ndcg(ranking: Ranking, corpus: Corpus, split: str) -> float:
    return float(document_metrics(ranking, corpus.splits[split].Y, [5])["nDCG@5"].mean())


def test_on_the_records_that_it_is_weighed_on_it_beats_each_of_its_sources(blend: Blend, small_corpus: Corpus) -> None:
    documents = Documents(small_corpus.splits["dev"].texts)

    def of_each(blend: Blend) -> tuple[float, dict[str, float]]:
        mixed, _, sources = blend.rank_with_sources(documents, 5)
        alone = {name: ndcg(ranking, small_corpus, "dev") for name, ranking in sources.items()}
        return ndcg(mixed, small_corpus, "dev"), alone

    mixed, alone = of_each(fit_again(blend, small_corpus, blend.sources))
    assert set(alone) == {"cascade", "linear", "neighbours", "vectors", "names"}
    # Names say so much more than the rest on so few records that, cross-fitted, no mixture is better: they answer.
    assert mixed == max(alone.values()) == alone["names"]
    settings = BlendSettings(sources=["linear", "neighbours", "vectors"], neighbours=5, opening=0)
    assert isinstance(blend.sources.cascade, CascadeRanker)
    mixed, alone = of_each(tiny_blend(small_corpus, blend.sources.cascade, settings, LinearSettings(opening=0)))
    assert set(alone) == {"cascade", "linear", "neighbours", "vectors"}
    assert mixed > max(alone.values())


@pytest.mark.parametrize("opening", [None, 0, 5])
def test_the_sources_are_those_of_the_same_documents(blend: Blend, small_corpus: Corpus, opening: int | None) -> None:
    """Whether or not the two that read words take a text apart alike."""
    documents = Documents(small_corpus.splits["test"].texts)
    if opening is not None:
        assert isinstance(blend.sources.cascade, CascadeRanker)
        blend = tiny_blend(small_corpus, blend.sources.cascade, linear_settings=LinearSettings(opening=opening))
    _, vectors, sources = blend.rank_with_sources(documents, 3)
    parts = blend.sources
    assert parts.linear and parts.neighbours and parts.vectors and parts.names
    for name, ranking in (
        ("linear", parts.linear.rank(documents, 100)),
        ("neighbours", parts.neighbours.rank(documents, 100)),
        ("vectors", parts.vectors.rank(vectors, 100)),
        ("names", parts.names.rank(documents, 300)),
    ):
        np.testing.assert_array_equal(sources[name].labels, ranking.labels)
        np.testing.assert_array_equal(sources[name].scores, ranking.scores)


def test_in_chunks_it_ranks_the_same(blend: Blend, small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Documents(small_corpus.splits["test"].texts)
    whole = blend.rank(documents, 10)
    monkeypatch.setattr(module, "_DOCUMENTS_A_CHUNK", 7)
    told: list[tuple[int, int]] = []
    parts = blend.rank(documents, 10, progress=lambda what, done, total, figures: told.append((done, total)))
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)
    assert told[-1] == (60, 60) and told == sorted(told)


def fit_again(blend: Blend, corpus: Corpus, sources: Sources, split: str = "dev") -> Blend:
    those = corpus.splits[split]
    return Blend.fit(sources, Documents(those.texts), those.Y, blend.uses, blend.ids, BlendSettings())


def test_what_each_source_and_all_reach_on_dev_is_recorded(blend: Blend, small_corpus: Corpus) -> None:
    told: list[Figures] = []
    dev = small_corpus.splits["dev"]
    documents = Documents(dev.texts)
    Blend.fit(
        blend.sources, documents, dev.Y, blend.uses, blend.ids, BlendSettings(folds=3), seed=1, record=told.append
    )
    (figures,) = told
    _, _, sources = blend.rank_with_sources(documents, 20)
    assert set(figures) == {MIXED, *sources}
    Y = dev.Y.toarray() > 0
    for name, ranking in sources.items():
        hits = [[row >= 0 and bool(Y[n, row]) for row in rows[:5]] for n, rows in enumerate(ranking.labels.tolist())]
        assert figures[name]["P@5"] == pytest.approx(np.mean(hits))
        assert figures[name]["nDCG@5"] == pytest.approx(ndcg(ranking, small_corpus, "dev"))
    # Cross-fitted: below what weights that have seen all of dev reach on it.
    found = candidates(sources, blend.L)
    right = Y[found.documents, found.labels]
    seen = found.ranked(fit_mixture(found, right, blend.uses).probabilities(found, blend.uses), 5, blend.L)
    assert 0 < figures[MIXED]["nDCG@5"] < ndcg(seen, small_corpus, "dev")


def test_without_a_document_to_weigh_them_on_the_network_answers(blend: Blend, small_corpus: Corpus) -> None:
    dev = small_corpus.splits["dev"]
    alone = Blend.fit(blend.sources, Documents([]), dev.Y[:0], blend.uses, blend.ids, BlendSettings())
    expected = blend.sources.cascade.rank(Documents(dev.texts), 10)
    np.testing.assert_array_equal(alone.rank(Documents(dev.texts), 10).labels, expected.labels)


def test_of_a_few_words_it_is_as_sure_as_it_is_right_and_keeps_that_on_disk(
    blend: Blend, small_corpus: Corpus, tmp_path: Path
) -> None:
    settings = BlendSettings(sources=["linear", "neighbours", "vectors"], neighbours=5, opening=0)
    assert isinstance(blend.sources.cascade, CascadeRanker)
    fitted = tiny_blend(small_corpus, blend.sources.cascade, settings, LinearSettings(opening=0))
    sure = replace(fitted, brevity=Brevity())
    assert fitted.brevity.ordinary > 0
    dev = small_corpus.splits["dev"]
    _, texts, rows = windows_of(dev.texts, 0)

    def surprise(blend: Blend) -> float:
        ranking = blend.rank(Documents(texts), DECISIVE)
        right = np.take_along_axis(dev.Y.toarray()[rows, : blend.L] > 0, ranking.labels, axis=1)
        return float(-np.log(np.where(right, ranking.scores, 1 - ranking.scores)).mean())

    assert surprise(fitted) < surprise(sure)
    whole = Documents([text for text in dev.texts if len(text.split()) >= fitted.brevity.ordinary])
    np.testing.assert_array_equal(fitted.rank(whole, 5).scores, sure.rank(whole, 5).scores)
    fitted.save(tmp_path / "blend")
    assert Blend.load(tmp_path / "blend", "cpu").brevity == fitted.brevity


def test_where_the_mixture_is_no_better_the_best_source_answers(
    blend: Blend, small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cross-fitted weights that are worth nothing: every candidate is as good as the other.
    monkeypatch.setattr(module, "cross_fitted", lambda found, *rest: np.zeros(len(found.documents)))
    found = fit_again(blend, small_corpus, blend.sources)
    dev = Documents(small_corpus.splits["dev"].texts)
    _, _, sources = blend.rank_with_sources(dev, 5)
    best = max(sources, key=lambda name: ndcg(sources[name], small_corpus, "dev"))
    assert best != "cascade"
    # Further down two labels may have one score but for rounding.
    np.testing.assert_array_equal(found.rank(dev, 5).labels[:, 0], sources[best].labels[:, 0])


@pytest.mark.parametrize("left", ["linear", "neighbours", "vectors", "names"])
def test_a_source_may_be_left_out(blend: Blend, small_corpus: Corpus, left: str, tmp_path: Path) -> None:
    fewer = fit_again(blend, small_corpus, replace(blend.sources, **{left: None}))
    fewer.save(tmp_path / "blend")
    loaded = Blend.load(tmp_path / "blend", "cpu")
    assert left not in loaded.sources.listed and len(loaded.mixture.rare) == 4
    texts = small_corpus.splits["test"].texts
    np.testing.assert_array_equal(loaded.rank(Documents(texts), 5).labels, fewer.rank(Documents(texts), 5).labels)
    assert not (tmp_path / "blend" / left).exists()


def test_labels_without_names_are_ranked_without_that_source(blend: Blend, small_corpus: Corpus) -> None:
    train = small_corpus.splits["train"]
    L = small_corpus.vocabulary.L
    parts = blend.sources
    assert parts.linear
    settings = BlendSettings(sources=["linear", "names"])
    documents, Y = Documents(train.texts), train.Y[:, :L].tocsr()
    assert Sources.of(parts.cascade, parts.linear, documents, Y, [None] * L, settings).listed == ["cascade", "linear"]
    one = [None, *small_corpus.vocabulary.names[1:2], *[None] * (L - 2)]
    assert "names" in Sources.of(parts.cascade, parts.linear, documents, Y, one, settings).listed


def test_labels_that_a_source_has_never_seen_come_through_another(blend: Blend, small_corpus: Corpus) -> None:
    documents = Documents(small_corpus.splits["test"].texts)
    _, _, sources = blend.rank_with_sources(documents, 5)
    unknown = int(sources["linear"].labels[0, 0])
    without = {name: Ranking(np.where(r.labels == unknown, -1, r.labels), r.scores) for name, r in sources.items()}
    without["linear"] = sources["linear"]
    found = candidates(without, blend.L)
    assert unknown in found.labels[found.documents == 0]
    assert np.isfinite(blend.mixture.probabilities(found, blend.uses)).all()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("mixture.json", Mixture((1.0,), (1.0,)), "weighs 1 sources, there are 5"),
        ("mixture.json", Mixture((-1.0, 1, 1, 1, 1), (1.0, 1, 1, 1, 1)), "below 0"),
        ("mixture.json", Mixture((float("nan"), 1, 1, 1, 1), (1.0, 1, 1, 1, 1)), "no number"),
        ("ids.json", [3], "no list of strings"),
        ("ids.json", ["only one"], r"neighbours holds documents and labels of \(300, \d+\), ids.json .* \(1, "),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    blend: Blend, file: str, content: Mixture | list[int | str], said: str, tmp_path: Path
) -> None:
    blend.save(tmp_path / "sound")
    meta = dict(FORMAT.read(tmp_path / "sound").meta)
    with FORMAT.write(tmp_path / "odd", meta) as folder:
        for part in (tmp_path / "sound").iterdir():
            if part.name != "manifest.json":
                part.rename(folder / part.name)
        text = json.dumps(vars(content) if isinstance(content, Mixture) else content)
        (folder / file).write_text(text)
    with pytest.raises(FormatError, match=said):
        Blend.load(tmp_path / "odd", "cpu")
