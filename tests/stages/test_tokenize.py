"""The tokenize stage on a small real corpus."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stages
from cascadexml.config import TokenizeSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.rankers.cascade.encoder import load_tokenizer
from stages import tokenize
from tests.support.params import SETTINGS


def test_writes_a_store_a_split(small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_corpus.save(stages.CORPUS)
    settings = replace(SETTINGS, tokenize=TokenizeSettings(max_length=32))
    tokenize.main(settings)
    assert sorted(path.name for path in stages.TOKENS.iterdir()) == ["dev", "test", "train"]
    tokenizer = load_tokenizer(settings.encoder.name)
    for name, split in small_corpus.splits.items():
        store = TokenStore.open(stages.TOKENS / name)
        whole = tokenizer(split.texts, truncation=True, max_length=32, padding=True, return_tensors="pt")
        assert store.batch(np.arange(len(split.texts))).input_ids.equal(whole["input_ids"])
