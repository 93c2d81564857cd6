"""train.compile through the public training entry; on CPU torch.compile calls a C++ compiler."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch._dynamo.utils import counters

from cascadexml import CascadeXMLClassifier
from tests.conftest import sample_records
from tests.support.tiny_encoders import make_tiny_encoder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_a_compiled_encoder_is_trained_to_the_probabilities_of_one_that_is_not(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        pytest.skip("torch.compile needs a C++ compiler on CPU, and this machine has neither g++ nor clang++")
    records = sample_records("train", 64)
    texts, labels = [record["text"] for record in records], [record["labels"] for record in records]
    knobs: dict[str, Any] = {
        "encoder": str(make_tiny_encoder("bert", tmp_path / "encoder", layers=1)),
        "max_length": 16,
        "device": "cpu",
    }
    plain = CascadeXMLClassifier(**knobs).fit(texts, labels).predict_proba(texts)
    before = counters["stats"]["unique_graphs"]
    compiled = CascadeXMLClassifier(**knobs, settings={"train.compile": True}).fit(texts, labels).predict_proba(texts)
    assert counters["stats"]["unique_graphs"] > before
    assert np.abs((compiled - plain).toarray()).max() < 1e-4
