"""Which two models may stand before the gate, by artifacts of real labels, and what the gate tells of both."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cascadexml.artifact import Artifact, Origin, open_artifact
from cascadexml.bundle import sha256_of
from cascadexml.config import EvaluateSettings, JudgeSettings, TrainSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError, FormatError
from cascadexml.evaluation.candidates import check_comparable, judge_candidates
from cascadexml.evaluation.held_out import Provenance, save_held_out, see
from cascadexml.rankers.base import Documents
from tests.conftest import sample_records
from tests.support.params import SETTINGS as BASE
from tests.support.tiny_artifacts import pack_again, pack_tiny

SETTINGS = replace(
    BASE,
    evaluate=EvaluateSettings(ks=[1, 5], top_k=20, bootstrap_samples=50),
    judge=JudgeSettings(slices=["type", "batch"], min_slice=10),
    train=TrainSettings(device="cpu"),
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack_tiny(folder, small_corpus)
    return folder


@pytest.fixture(scope="module")
def champion(packed: Path) -> Artifact:
    return open_artifact(packed / "artifact")


def variant(packed: Path, corpus: Corpus, target: Path, ids: Any, names: Any, data: str | None = "f" * 64) -> Artifact:
    """The champion under other labels: id and name of each of its rows, by the row's number."""
    V = len(corpus.vocabulary)
    vocabulary = Vocabulary(tuple(map(ids, range(V))), tuple(map(names, range(V))), corpus.vocabulary.L)
    origin = Origin(name="tiny", documents={"train": 300}, data_fingerprint=data)
    pack_again(target, packed, corpus, vocabulary=vocabulary, origin=origin)
    return open_artifact(target)


def test_a_model_of_other_labels_and_other_data_is_refused_by_name(
    packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path
):
    L = small_corpus.vocabulary.L
    other = variant(packed, small_corpus, tmp_path / "other", lambda row: f"x{row}", lambda row: None)
    for one, two in ((champion, other), (other, champion)):
        with pytest.raises(ConfigError) as caught:
            check_comparable(one, two)
        message = str(caught.value)
        assert "'tiny'" in message
        assert f"{L:,} labels" in message
        assert sha256_of(one.path / "manifest.json")[:12] in message
        assert "have 0 labels in common" in message
        assert "package.name" in message
        assert "\n" not in message


def test_the_same_data_are_comparable_whatever_the_labels_are_called(
    packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path
):
    data = small_corpus.fingerprint
    check_comparable(
        champion, variant(packed, small_corpus, tmp_path / "a", lambda row: f"x{row}", lambda row: None, data)
    )


def test_unknown_data_are_no_same_data(packed: Path, small_corpus: Corpus, tmp_path: Path):
    one = variant(packed, small_corpus, tmp_path / "one", lambda row: f"x{row}", lambda row: None, None)
    two = variant(packed, small_corpus, tmp_path / "two", lambda row: f"y{row}", lambda row: None, None)
    with pytest.raises(ConfigError, match="different data"):
        check_comparable(one, two)


def test_ids_that_coincide_by_accident_are_no_same_labels(packed: Path, small_corpus: Corpus, tmp_path: Path):
    names = small_corpus.vocabulary.names
    one = variant(packed, small_corpus, tmp_path / "one", str, lambda row: names[row])
    two = variant(packed, small_corpus, tmp_path / "two", str, lambda row: f"Product {row}", "e" * 64)
    with pytest.raises(ConfigError, match="have 0 labels in common"):
        check_comparable(one, two)
    # The same names in other type and spacing, or none, do not part what their ids join.
    check_comparable(
        one, variant(packed, small_corpus, tmp_path / "same", str, lambda row: f"  {names[row]} ".upper(), "e" * 64)
    )
    check_comparable(one, variant(packed, small_corpus, tmp_path / "unnamed", str, lambda row: None, "e" * 64))


@pytest.mark.parametrize(("share", "comparable"), [(0.005, False), (0.02, True)])
def test_next_to_nothing_in_common_is_nothing(
    packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path, share: float, comparable: bool
):
    ids, L = small_corpus.vocabulary.ids, small_corpus.vocabulary.L
    kept = set(np.random.default_rng(0).choice(L, round(share * L), replace=False).tolist())
    assert kept
    other = variant(
        packed, small_corpus, tmp_path / "other", lambda row: ids[row] if row in kept else f"x{row}", lambda row: None
    )
    if comparable:
        check_comparable(champion, other)
    else:
        with pytest.raises(ConfigError, match=f"have {len(kept)} labels in common"):
            check_comparable(champion, other)


def test_only_labels_that_both_rank_count(packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path):
    ids, L = small_corpus.vocabulary.ids, small_corpus.vocabulary.L
    # Rows from L on are labels of dev and test alone, which no model suggests; here labels that the champion ranks.
    assert 0.01 * L < len(ids) - L <= L
    other = variant(
        packed, small_corpus, tmp_path / "other", lambda row: ids[row - L] if row >= L else f"x{row}", lambda row: None
    )
    for one, two in ((champion, other), (other, champion)):
        with pytest.raises(ConfigError, match="have 0 labels in common"):
            check_comparable(one, two)


def test_years_of_one_catalogue_are_comparable(packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path):
    """Two lots of records of one source share labels, however few the records are."""
    folder = tmp_path / "few"
    tables = {"train": pa.Table.from_pylist(sample_records("test", 50))}
    few = Corpus.from_records(tables, {})
    assert few.fingerprint != small_corpus.fingerprint
    pack_tiny(folder, few)
    check_comparable(champion, open_artifact(folder / "artifact"))


def test_the_judgement_names_both_models_and_what_they_lack(
    packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path
):
    ids, names, L = small_corpus.vocabulary.ids, small_corpus.vocabulary.names, small_corpus.vocabulary.L
    half = variant(
        packed,
        small_corpus,
        tmp_path / "half",
        lambda row: f"old:{row}" if row % 2 else ids[row],
        lambda row: names[row],
    )
    found = judge_candidates(half, champion, small_corpus, SETTINGS)
    assert {role: model.fingerprint for role, model in found.models.items()} == {
        "champion": sha256_of(half.path / "manifest.json"),
        "challenger": sha256_of(champion.path / "manifest.json"),
    }
    assert found.models["challenger"].data_fingerprint == small_corpus.fingerprint
    assert found.models["champion"].labels == L
    assert [note for note in found.notes if "labels of train" in note] == [
        f"The champion does not know {L // 2} of the {L} labels of train: they count as missed."
    ]
    assert sum(bool(re.match("The champion was trained on other data", note)) for note in found.notes) == 1


class Mute:
    """A candidate that may be asked for everything but to rank."""

    def __init__(self, candidate: Artifact):
        self.candidate = candidate

    def __getattr__(self, name: str) -> Any:
        return getattr(self.candidate, name)

    def ranker(self, device: str = "auto") -> Any:
        raise AssertionError("it ranked again")


def test_what_evaluate_kept_is_not_ranked_again_and_judges_alike(
    packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path
):
    ids, names = small_corpus.vocabulary.ids, small_corpus.vocabulary.names
    other = variant(
        packed, small_corpus, tmp_path / "other", lambda row: f"x{row}" if row % 3 else ids[row], lambda row: names[row]
    )
    K, test = SETTINGS.evaluate.top_k, small_corpus.splits["test"]
    seen = {"test": see(champion.ranker("cpu"), Documents(test.texts), K)}
    provenance = Provenance(champion.ranker_fingerprint, small_corpus.fingerprint, K)
    save_held_out(seen, provenance, tmp_path / "seen")
    found = judge_candidates(Mute(other), Mute(champion), small_corpus, SETTINGS, held_out=tmp_path / "seen")
    assert found == judge_candidates(other, champion, small_corpus, SETTINGS)
    save_held_out(seen, replace(provenance, ranker="0" * 64), tmp_path / "another")
    with pytest.raises(AssertionError, match="ranked again"):
        judge_candidates(None, Mute(champion), small_corpus, SETTINGS, held_out=tmp_path / "another")


def test_a_judge_refuses_what_cannot_be_compared(
    packed: Path, small_corpus: Corpus, champion: Artifact, tmp_path: Path
):
    other = variant(packed, small_corpus, tmp_path / "other", lambda row: f"x{row}", lambda row: None)
    with pytest.raises(ConfigError, match="labels in common"):
        judge_candidates(other, champion, small_corpus, SETTINGS)


def test_a_corpus_without_test_judges_nothing(champion: Artifact, small_corpus: Corpus):
    bare = replace(small_corpus, splits={"train": small_corpus.splits["train"]})
    with pytest.raises(DataError, match="no test document"):
        judge_candidates(None, champion, bare, SETTINGS)


def test_a_ranker_that_does_not_fit_its_vocabulary_is_refused(packed: Path, small_corpus: Corpus, tmp_path: Path):
    vocabulary = small_corpus.vocabulary
    narrow = Vocabulary(vocabulary.ids, vocabulary.names, vocabulary.L - 1)
    pack_again(tmp_path / "narrow", packed, small_corpus, vocabulary=narrow)
    with pytest.raises(FormatError, match="pack it again"):
        judge_candidates(None, open_artifact(tmp_path / "narrow"), small_corpus, SETTINGS)
