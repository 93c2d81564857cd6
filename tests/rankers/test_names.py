"""Label names on real records and their real names, against a slow count letter by letter."""

import json
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from cascadexml.data.corpus import Corpus
from cascadexml.errors import FormatError
from cascadexml.rankers import names as module
from cascadexml.rankers import search
from cascadexml.rankers.base import Documents
from cascadexml.rankers.names import FORMAT, NamesRanker
from cascadexml.ranking import NO_LABEL


def plain_runs(text: str) -> set[str]:
    """Runs of four to six letters of each word with a blank at either end; a shorter word is one itself."""
    letters = [c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c)]
    words = "".join(c if c.isalnum() or c == "_" else " " for c in letters).split()
    found = set()
    for word in words:
        word = f" {word} "
        if len(word) <= 4:
            found.add(word)
        for n in (4, 5, 6):
            found |= {word[i : i + n] for i in range(len(word)) if i + n <= len(word)}
    return found


def plain_share(runs: list[set[str]], label: int, text: str) -> float:
    """How much of a name a text has, by the inverse frequency of runs among the names, whose runs these are."""
    idf = {run: math.log((1 + len(runs)) / (1 + sum(run in other for other in runs))) + 1 for run in runs[label]}
    has = plain_runs(text)
    return sum(weight for run, weight in idf.items() if run in has) / sum(idf.values()) if idf else 0.0


@pytest.mark.parametrize("opening", [0, 6])
def test_scores_equal_a_count_letter_by_letter(small_corpus: Corpus, opening: int) -> None:
    vocabulary, texts = small_corpus.vocabulary, small_corpus.splits["test"].texts[:12]
    names = list(vocabulary.names[: vocabulary.L])
    ranking = NamesRanker.fit(names, opening).rank(Documents(texts), vocabulary.L)
    some = np.random.default_rng(0).permutation(vocabulary.L)[:60].tolist()
    runs = [plain_runs(name or "") for name in names]
    positive = 0
    for n, text in enumerate(texts):
        given = dict(zip(ranking.labels[n].tolist(), ranking.scores[n].tolist(), strict=True))
        for label in some:
            expected = plain_share(runs, label, text)
            if opening:
                expected = (expected + plain_share(runs, label, " ".join(text.split()[:opening]))) / 2
            assert given.get(label, 0.0) == pytest.approx(expected, abs=1e-5)
            positive += expected > 0
        assert all(0 < score <= 1 for label, score in given.items() if label != NO_LABEL)
    assert positive > 100


def test_names_that_a_text_spells_come_first(small_corpus: Corpus) -> None:
    """On the sample's records, German names and English texts, they find far more labels than chance would."""
    vocabulary, test = small_corpus.vocabulary, small_corpus.splits["test"]
    ranking = NamesRanker.fit(vocabulary.names[: vocabulary.L], 12).rank(Documents(test.texts), 20)
    Y = test.Y.toarray() > 0
    hits = sum(Y[n, label] for n, row in enumerate(ranking.labels.tolist()) for label in row if label != NO_LABEL)
    chance = 20 / vocabulary.L * Y[:, : vocabulary.L].sum()
    assert hits > 5 * chance


NAMES = ["Fluoreszenzmikroskopie", "Brücke", "Straße", "C", "Java (Programmiersprache)", None, "", "Brücke"]


@pytest.mark.parametrize(
    ("text", "first", "whole"),
    [
        ("BRUCKE", 1, True),
        ("die strasse", 2, True),
        ("learn c today", 3, True),
        ("Java", 4, False),
        ("fluorescence microscopy", 0, False),
    ],
)
def test_accents_case_and_cognates(text: str, first: int, whole: bool) -> None:
    ranking = NamesRanker.fit(NAMES).rank(Documents([text]), 3)
    assert ranking.labels[0, 0] == first
    assert (ranking.scores[0, 0] == pytest.approx(1)) == whole


def test_a_name_that_stands_there_whole_scores_one_and_equal_names_alike() -> None:
    ranking = NamesRanker.fit(NAMES).rank(
        Documents(["Über eine Brücke gehen", "", "xyzzyx", "\u200b", "None"]), len(NAMES)
    )
    assert ranking.labels[0, :2].tolist() == [1, 7]
    np.testing.assert_allclose(ranking.scores[0, :2], 1.0, atol=1e-6)
    assert (ranking.labels[1:] == NO_LABEL).all()
    assert not {5, 6} & set(ranking.labels.ravel().tolist()), "labels without a name are not ranked"


def test_the_opening_counts_as_much_as_all_of_the_text() -> None:
    texts = ["Brücke and much else", "much else and Brücke"]
    first, last = NamesRanker.fit(NAMES, opening=1).rank(Documents(texts), 1).scores[:, 0]
    assert (first, last) == (pytest.approx(1.0), pytest.approx(0.5))


@given(st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=6), st.text(max_size=40))
def test_any_text_and_any_names_give_shares(names: list[str | None], text: str) -> None:
    ranking = NamesRanker.fit(names, 2).rank(Documents([text]), len(names))
    given = ranking.labels[0] != NO_LABEL
    assert ((ranking.scores[0][given] > 0) & (ranking.scores[0][given] <= 1)).all()


def test_in_chunks_it_ranks_the_same(small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, documents = small_corpus.vocabulary, Documents(small_corpus.splits["test"].texts)
    ranker = NamesRanker.fit(vocabulary.names[: vocabulary.L], 12)
    whole = ranker.rank(documents, 5)
    monkeypatch.setattr(module, "_CELLS_A_CHUNK", 7 * vocabulary.L)
    parts = ranker.rank(documents, 5)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.scores, whole.scores)


@pytest.mark.parametrize("opening", [0, 12])
def test_a_search_finds_what_the_whole_product_gives(
    small_corpus: Corpus, opening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary, documents = small_corpus.vocabulary, Documents([*small_corpus.splits["test"].texts, "", "xyzzyx"])
    names = [*vocabulary.names[: vocabulary.L]] * 3
    whole = NamesRanker.fit(names, opening).rank(documents, 50)
    monkeypatch.setattr(search, "SEARCHED", 0)
    searched = NamesRanker.fit(names, opening).rank(documents, 50)
    np.testing.assert_allclose(searched.scores, whole.scores, atol=1e-6)
    for labels, scores in zip(searched.labels, searched.scores, strict=True):
        given = list(zip((-scores).tolist(), labels.tolist(), strict=True))
        assert given == sorted(given) or NO_LABEL in labels
    assert searched.scores.max() <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runs": lambda runs: runs[:-1]}, "indptr has"),
        ({"runs": lambda runs: [runs[1], *runs[1:]]}, "stands twice"),
        ({"runs": lambda runs: [3, *runs[1:]]}, "no string"),
        ({"runs": lambda runs: dict.fromkeys(runs)}, "no list"),
        ({"data": lambda a: -a}, "weights are"),
        ({"data": lambda a: a.astype(np.float64)}, "weights are float64"),
        ({"data": lambda a: np.where(np.arange(a.size) == 3, np.nan, a)}, "not finite"),
        ({"indices": lambda a: np.where(np.arange(a.size) == 3, 10**7, a)}, "indices holds 0 to 10000000"),
        ({"opening": lambda n: -1}, "opening is -1"),
        ({"opening": lambda n: None}, "opening is None"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Callable[[Any], Any]], said: str, tmp_path: Path) -> None:
    NamesRanker.fit(NAMES, 12).save(tmp_path / "sound")
    (name, changed), meta = next(iter(change.items())), dict(FORMAT.read(tmp_path / "sound").meta)
    runs = json.loads((tmp_path / "sound" / "runs.json").read_text())
    arrays = load_file(tmp_path / "sound" / "weights.safetensors")
    if name in meta:
        meta[name] = changed(meta[name])
    elif name == "runs":
        runs = changed(runs)
    else:
        arrays[name] = changed(arrays[name])
    with FORMAT.write(tmp_path / "odd", meta) as folder:
        (folder / "runs.json").write_text(json.dumps(runs))
        save_file(arrays, folder / "weights.safetensors")
    with pytest.raises(FormatError, match=said):
        NamesRanker.load(tmp_path / "odd")
