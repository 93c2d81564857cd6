import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cascadexml import bundle
from cascadexml.artifact.artifact import open_artifact
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.monitoring.reference import (
    FUNCTION_WORDS,
    KIND,
    VERSION,
    Reference,
    hash_words,
    make_reference,
    observe,
    text_statistics,
)
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.network import CascadeXML
from tests.support.tiny_artifacts import pack_again, pack_tiny, tiny_reference


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    """A folder with encoder, model, artifact, tokens and reference."""
    folder = tmp_path_factory.mktemp("tiny")
    pack_tiny(folder, small_corpus)
    tiny_reference(folder, small_corpus)
    return folder


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


def test_observe_gives_what_the_model_gives_one_text_at_a_time(tiny: Path, small_corpus: Corpus) -> None:
    texts = small_corpus.splits["dev"].texts[:20]
    model, tokenizer = CascadeXML.load(tiny / "model"), load_tokenizer(str(tiny / "encoder"))
    tokens = tokenizer(texts, truncation=True, max_length=24)["input_ids"]
    ranking, vectors = observe(model, tokens, pad_id=tokenizer.pad_token_id)
    for n, ids in enumerate(tokens):
        alone, mask = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)
        with torch.no_grad():
            np.testing.assert_allclose(vectors[n], model.vectors(alone, mask)[-1][0].numpy(), atol=1e-5)
        _, scores = model.rank(alone, mask, 10)
        np.testing.assert_allclose(ranking.scores[n], scores[0].numpy(), atol=1e-5)
    store = TokenStore.build(tiny / "again", texts, tokenizer, 24)
    rows = np.array([7, 3, 11])
    some, their_vectors = observe(model, store, rows=rows)
    np.testing.assert_allclose(their_vectors, vectors[rows], atol=1e-5)
    np.testing.assert_array_equal(some.labels, ranking.labels[rows])
    assert not model.training


def test_a_record_without_tokens_gets_no_label(tiny: Path) -> None:
    ranking, vectors = observe(CascadeXML.load(tiny / "model"), [[], [2, 3]])
    assert (ranking.labels[0] == -1).all() and (ranking.labels[1] >= 0).any()
    assert not vectors[0].any() and vectors[1].any()


def test_quality_and_labels_of_the_held_out_records(tiny: Path, small_corpus: Corpus) -> None:
    profile = Reference.load(tiny / "reference").profile
    assert len(profile) == 120
    model, L = CascadeXML.load(tiny / "model"), small_corpus.vocabulary.L
    at = 0
    for name in ("dev", "test"):
        split = small_corpus.splits[name]
        ranking, _ = observe(model, TokenStore.open(tiny / "tokens" / name))
        for n, labels in enumerate(ranking.labels[:, :5].tolist()):
            true = set(split.Y[n].indices.tolist())
            gain = sum(1 / math.log2(place + 2) for place, label in enumerate(labels) if label in true)
            best = sum(1 / math.log2(place + 2) for place in range(min(5, len(true))))
            row = {key: values[0] for key, values in profile.table.slice(at, 1).to_pydict().items()}
            assert row["nDCG@5"] == pytest.approx(gain / best)
            assert row["P@1"] == (labels[0] in true)
            assert row["labels"] == len(true)
            assert row["unseen_labels"] == sum(label >= L for label in true)
            assert row["characters"] == len(split.texts[n])
            assert row["type"] == split.metadata.column("type")[n].as_py()
            assert row["top_probability"] == pytest.approx(Calibration(0.3, 0.1).apply(ranking.scores[n, :1])[0])
            at += 1


def test_it_reads_back_equal_and_holds_no_text(tiny: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    first = Reference.load(tiny / "reference")
    first.save(tmp_path / "again")
    second = Reference.load(tmp_path / "again")
    assert second.profile.table.equals(first.profile.table)
    np.testing.assert_array_equal(second.profile.vectors, first.profile.vectors)
    train = small_corpus.splits["train"]
    np.testing.assert_array_equal(second.Y_train.toarray(), train.Y[:, : small_corpus.vocabulary.L].toarray())
    strings = [
        n for n in first.profile.table.column_names if pa.types.is_string(first.profile.table.schema.field(n).type)
    ]
    assert strings == ["type"]
    content = b"".join(file.read_bytes() for file in (tiny / "reference").iterdir())
    for split in small_corpus.splits.values():
        assert not any(text[:30].encode() in content for text in split.texts)
        assert not any(record_id.encode() in content for record_id in split.ids)


def test_records_are_drawn_from_both_splits_and_the_draw_is_seeded(tiny: Path, small_corpus: Corpus) -> None:
    model = CascadeXML.load(tiny / "model")
    tokens = {name: TokenStore.open(tiny / "tokens" / name) for name in ("dev", "test")}

    def made(seed: int) -> Reference:
        return make_reference(small_corpus, model, tokens, Calibration(), records=50, seed=seed)

    one, same, other = made(0), made(0), made(1)
    assert sum(one.meta["records"].values()) == len(one.profile) == 50
    assert min(one.meta["records"].values()) > 10
    assert one.profile.table.equals(same.profile.table)
    assert not one.profile.table.equals(other.profile.table)


def test_nothing_held_out_is_refused(tiny: Path, small_corpus: Corpus) -> None:
    bare = replace(small_corpus, splits={"train": small_corpus.splits["train"]})
    with pytest.raises(DataError, match=r"Neither dev nor test has a record"):
        make_reference(bare, CascadeXML.load(tiny / "model"), {}, Calibration())


def test_a_damaged_reference_is_refused(tiny: Path, tmp_path: Path) -> None:
    Reference.load(tiny / "reference").save(tmp_path / "broken")
    with (tmp_path / "broken" / "vectors.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff")
    with pytest.raises(FormatError, match=r"vectors\.npy differs from the SHA-256"):
        Reference.load(tmp_path / "broken")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("label_offsets", lambda a: np.concatenate([[0, 10**6], a[2:]]), "indptr holds 0 to 1000000"),
        ("label_offsets", lambda a: a[:-1], "indptr has"),
        ("label_rows", lambda a: np.where(np.arange(a.size) == 3, 10**7, a), "indices holds 0 to 10000000"),
        ("label_rows", lambda a: a.astype(np.float32), "indices is 1-dimensional float32"),
    ],
)
def test_label_arrays_that_do_not_fit_are_refused_despite_a_right_manifest(
    tiny: Path, tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    found = Reference.load(tiny / "reference")
    with bundle.writing(tmp_path / "odd", KIND, VERSION, found.meta) as folder:
        for file in ("records.parquet", "vectors.npy", "words.npy", "label_offsets.npy", "label_rows.npy"):
            shutil.copy(tiny / "reference" / file, folder)
        np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
    with pytest.raises(FormatError, match=said):
        Reference.load(tmp_path / "odd")


def test_an_artifact_carries_it_or_goes_without(tiny: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    assert open_artifact(tiny / "artifact").reference is None
    pack_again(tmp_path / "artifact", tiny, small_corpus, reference=tiny / "reference")
    carried = open_artifact(tmp_path / "artifact").reference
    assert carried is not None
    assert Reference.load(carried).profile.table.equals(Reference.load(tiny / "reference").profile.table)
    with pytest.raises(FormatError, match=r"cascadexml\.model.*expected a 'cascadexml\.reference'"):
        pack_again(tmp_path / "other", tiny, small_corpus, reference=tiny / "model")
    assert not (tmp_path / "other").exists()
