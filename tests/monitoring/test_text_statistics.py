import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadexml.monitoring.text_statistics import FUNCTION_WORDS, hash_words, text_statistics


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=5), st.text(max_size=30))
def test_text_statistics_agree_with_a_plain_count(texts: list[str], train: str) -> None:
    found = text_statistics(texts, hash_words([train]))
    known = set("".join(c if c.isalpha() else " " for c in train.lower()).split())
    for n, text in enumerate(texts):
        # Letters as \w without digits and underscore has them: a few numerals such as ² are no letters and no digits.
        words = re.findall(r"[^\W\d_]+", text.lower())
        assert found["characters"][n] == len(text)
        assert found["words"][n] == len(words)
        assert found["non_ascii_share"][n] == pytest.approx(len([c for c in text if ord(c) > 127]) / max(len(text), 1))
        assert found["digit_share"][n] == pytest.approx(sum(map(str.isdigit, text)) / max(len(text), 1))
        assert found["capital_share"][n] == pytest.approx(sum(map(str.isupper, text)) / max(len(text), 1))
        if words and all(word.isalpha() for word in words) and train.isascii():
            assert found["word_length"][n] == pytest.approx(np.mean([len(word) for word in words]))
            assert found["function_word_share"][n] == pytest.approx(np.mean([w in FUNCTION_WORDS for w in words]))
            assert found["unknown_word_share"][n] == pytest.approx(np.mean([w not in known for w in words]))


def test_words_of_train_are_known_and_others_are_not() -> None:
    words = hash_words(["Hydrogen storage, metal hydrides", "storage"])
    assert len(words) == 4
    found = text_statistics(["storage HYDRIDES quark", "", "17 42"], words)
    assert found["unknown_word_share"].tolist() == [pytest.approx(1 / 3), 0.0, 0.0]
    assert text_statistics(["storage"], hash_words([]))["unknown_word_share"].tolist() == [1.0]
