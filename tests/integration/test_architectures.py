"""Every supported kind of encoder through train → artifact → predict, with tiny random weights on real records."""

from pathlib import Path

import numpy as np
import pytest

from cascadexml import Predictor
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.rankers.cascade.network import CascadeXML
from tests.support.tiny_artifacts import pack_again
from tests.support.tiny_encoders import ARCHITECTURES
from tests.support.tiny_runs import prepare, train

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trains_packs_and_predicts_what_it_was_shown(
    architecture: str, pooling: str, tmp_path: Path, small_corpus: Corpus
) -> None:
    prepare(tmp_path, small_corpus, architecture)
    knobs = {"epochs": 20, "dropout": [0.0] * 3, "encoder_dropout": 0.0, "select": "P@1", "pooling": pooling}
    result = train(tmp_path, tmp_path / "model", dev="train", **knobs)
    pack_again(tmp_path / "artifact", tmp_path, small_corpus)
    shown = small_corpus.splits["train"]
    predictions = Predictor.load(tmp_path / "artifact", device="cpu").predict(shown.texts, top_k=1)
    hits = [shown.Y[n, small_corpus.vocabulary.row(found[0].id)] > 0 for n, found in enumerate(predictions) if found]
    # Far above always naming the commonest label: the encoder's tokens, mask and vectors fit each other.
    assert np.mean(hits) == pytest.approx(result.best)
    assert np.mean(hits) > 3 * shown.Y.mean(0).max()
    batch = TokenStore.open(tmp_path / "tokens" / "train").batch(np.arange(5))
    labels, _ = CascadeXML.load(tmp_path / "model" / "network").rank(batch.input_ids, batch.attention_mask, 1)
    assert [small_corpus.vocabulary.ids[row] for row in labels[:, 0]] == [found[0].id for found in predictions[:5]]
