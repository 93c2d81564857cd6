"""How much less a short text is believed: fitted to what is right, and nothing else changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from cascadexml.data.corpus import Corpus
from cascadexml.rankers.brevity import LEAST, STEEPEST, Brevity, fit_brevity, windows_of, words_of

BREVITIES = st.builds(Brevity, st.integers(0, 30), st.floats(0, STEEPEST), st.floats(-3, 3))


def test_shortness_goes_from_one_without_a_word_to_none_for_an_ordinary_text() -> None:
    texts = ["", "one", "one two three", " ".join("abcdefg"), " ".join("abcdefgh"), "\tword\n" * 50]
    u = Brevity(7, 0.5, 1.0).shortness(texts)
    expected = [1.0, 1 - np.log(2) / np.log(8), 1 - np.log(4) / np.log(8), 0.0, 0.0, 0.0]
    np.testing.assert_allclose(u, expected, atol=1e-12)
    assert words_of(texts).tolist() == [0, 1, 3, 7, 8, 50]
    assert not Brevity().shortness(texts).any()


@given(
    brevity=BREVITIES,
    probabilities=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    words=st.integers(0, 40),
)
def test_no_label_changes_its_place_and_ordinary_texts_keep_theirs(
    brevity: Brevity, probabilities: list[float], words: int
) -> None:
    before = np.sort(np.array(probabilities))
    u = np.repeat(brevity.shortness(["word " * words]), before.size)
    after = brevity.believed(before, u)
    assert (np.diff(after) >= 0).all()
    assert ((after >= 0) & (after <= 1)).all()
    if words >= brevity.ordinary:
        assert np.array_equal(after, before)


@given(brevity=BREVITIES, words=st.integers(0, 40), z=st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_shares_add_up_to_what_is_believed(brevity: Brevity, words: int, z: list[float]) -> None:
    u = brevity.shortness(["word " * words])
    left = brevity.shares(np.array([z]), float(u[0]))
    expected = brevity.believed(special.expit(np.array([sum(z)])), u)
    np.testing.assert_allclose(special.expit(left.sum(axis=1)), expected, atol=1e-9)


def test_slope_and_offset_are_those_that_made_the_labels_right() -> None:
    random = np.random.default_rng(0)
    z, u = random.normal(0, 2, 40_000), random.random(40_000)
    right = random.random(z.size) < special.expit((1 - 0.6 * u) * z - 1.5 * u)
    found = fit_brevity(special.expit(z), right, u, 12)
    assert (found.ordinary, found.slope, found.offset) == (
        12,
        pytest.approx(0.6, abs=0.05),
        pytest.approx(1.5, abs=0.1),
    )
    for all_alike in (np.zeros(3, dtype=bool), np.ones(3, dtype=bool)):
        assert fit_brevity(np.full(3, 0.5), all_alike, np.ones(3), 12) == Brevity()


def test_windows_are_cut_out_of_their_documents(small_corpus: Corpus) -> None:
    texts = [*small_corpus.splits["train"].texts, "", "short"]
    ordinary, windows, rows = windows_of(texts, 0)
    words = np.sort(words_of(texts))
    assert ordinary == int(np.quantile(words, 0.05)) >= LEAST
    assert len(windows) == len(rows) == len(set(rows.tolist())) == (words >= ordinary).sum()
    for window, row in zip(windows, rows, strict=True):
        assert f" {window} " in f" {' '.join(texts[row].split())} "
    sizes = words_of(windows)
    assert sizes.min() == 1
    assert sizes.max() < ordinary
    assert windows_of(texts, 0)[1] == windows
    assert windows_of(texts, 1)[1] != windows


def test_without_blanks_between_words_there_are_no_windows() -> None:
    for texts in ([], ["\u56fe\u4e66\u9986"] * 30, ["two words"] * 30):
        ordinary, windows, rows = windows_of(texts, 0)
        assert (ordinary, windows, rows.size) == (0, [], 0)


@pytest.mark.parametrize("wrong", [(-1, 0.0, 0.0), (5, -0.1, 0.0), (5, 0.95, 0.0), (5, 0.1, float("nan"))])
def test_what_could_not_be_fitted_is_refused(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="short texts"):
        Brevity(*wrong)
