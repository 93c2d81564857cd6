"""A model by the name that a user gives it: a folder, or a place that is none."""

from pathlib import Path

import pytest

from cascadexml.artifact import open_artifact
from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError, FormatError, RegistryError
from cascadexml.registry import open_model
from tests.support.tiny_artifacts import pack_tiny


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return pack_tiny(tmp_path_factory.mktemp("opening"), small_corpus)


def test_a_folder_is_opened_by_its_path_in_either_form(artifact: Path) -> None:
    expected = open_artifact(artifact)
    for place in (artifact, str(artifact)):
        assert (open_model(place).path, open_model(place).fingerprint) == (artifact, expected.fingerprint)


def test_what_is_no_place_for_models_is_refused_by_name(tmp_path: Path) -> None:
    for place in ("http://host/model", "gs://bucket/model"):
        with pytest.raises(DataError, match=f"{place} is no place for artifacts"):
            open_model(place)
    with pytest.raises(RegistryError, match="s3://model is no model's URI"):
        open_model("s3://model")
    with pytest.raises(FormatError, match="holds no manifest"):
        open_model(tmp_path / "nowhere")
