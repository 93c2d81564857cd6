"""Each byte of a model is hashed once when it is loaded from a folder; tests/integration has the same for S3."""

import json
from collections import Counter
from pathlib import Path

import pytest

from cascadexml import Predictor
from cascadexml.artifact import open_artifact
from cascadexml.bundle import MANIFEST
from cascadexml.data.corpus import Corpus
from cascadexml.monitoring.reference import Reference
from cascadexml.rankers.loading import load_ranker
from tests.support.hashing import hashed
from tests.support.tiny_artifacts import pack_again, pack_tiny, tiny_reference


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    """An artifact with every part that there may be."""
    folder = tmp_path_factory.mktemp("once")
    pack_tiny(folder, small_corpus)
    pack_again(folder / "whole", folder, small_corpus, reference=tiny_reference(folder, small_corpus))
    return folder


def listed(folder: Path) -> list[str]:
    """The files in the manifest of the bundle in `folder`."""
    return [str(folder / name) for name in json.loads((folder / MANIFEST).read_text())["files"]]


def test_a_model_that_is_loaded_from_a_folder_is_hashed_once(packed: Path) -> None:
    artifact = packed / "whole"
    with hashed() as seen:
        Predictor.load(artifact, device="cpu")
    # The manifest besides: its bytes are the fingerprint's.
    assert seen.files == Counter([*listed(artifact), str(artifact / MANIFEST)])
    # In memory nothing but the manifest itself, whose digest is over its content.
    assert seen.in_memory <= (artifact / MANIFEST).stat().st_size


def test_no_part_of_an_open_artifact_is_hashed_again(packed: Path) -> None:
    artifact = open_artifact(packed / "whole")
    assert artifact.reference is not None
    with hashed() as seen:
        artifact.ranker("cpu")
        artifact.vocabulary(), artifact.calibration(), artifact.metrics(), artifact.label_counts()
        Reference.load(artifact.reference)
        open_artifact(artifact.bundle)
    assert set(seen.files) <= {str(packed / "whole" / MANIFEST)}
    assert seen.in_memory == 0


def test_a_ranker_by_itself_is_hashed_once_with_all_that_it_holds(packed: Path) -> None:
    with hashed() as seen:
        load_ranker(packed / "model", "cpu")
    assert seen.files == Counter(listed(packed / "model"))
