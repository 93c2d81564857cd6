import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadexml import Predictor
from cascadexml.artifact import Origin, open_artifact
from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.data.corpus import Corpus
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.report import EvaluationReport
from cascadexml.labels.tree import FORMAT as FORMAT_OF_TREES
from cascadexml.labels.tree import LabelTree
from cascadexml.rankers.base import Documents
from cascadexml.rankers.cascade.network import FORMAT as NETWORK_FORMAT
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.popularity import Popularity
from tests.support.tiny_artifacts import (
    MAX_LENGTH,
    SETTINGS,
    pack_again,
    pack_tiny,
    tiny_blend,
    tiny_ensemble,
    tiny_metrics,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return pack_tiny(tmp_path_factory.mktemp("artifact"), small_corpus)


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(packed, tmp_path / "copy")


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_what_is_packed_reads_back(packed: Path, small_corpus: Corpus) -> None:
    found = open_artifact(packed)
    assert found.vocabulary() == small_corpus.vocabulary
    assert found.calibration() == Calibration(0.3, 0.1, 0.25)
    assert found.metrics() == tiny_metrics()
    assert (found.meta["ranker"], found.meta["rankers"], found.meta["max_length"]) == (
        "cascade",
        ["cascade"],
        MAX_LENGTH,
    )
    assert found.fingerprint == hashlib.sha256((packed / "manifest.json").read_bytes()).hexdigest()
    dense = small_corpus.splits["train"].Y.toarray()
    assert found.label_counts().tolist() == dense.sum(axis=0).astype(int).tolist()
    assert found.size == sum(len(data) for name, data in contents(packed).items() if name != "manifest.json")


def test_the_manifest_tells_where_the_model_comes_from(packed: Path, small_corpus: Corpus) -> None:
    meta = open_artifact(packed).meta
    assert meta["name"] == "tiny"
    assert meta["data_fingerprint"] == small_corpus.fingerprint
    assert (meta["git_revision"], meta["dvc_lock"]) == ("0" * 40, "1" * 64)
    assert meta["documents"] == {"train": 300, "dev": 60, "test": 60}
    assert meta["labels"] == small_corpus.vocabulary.L
    assert meta["metrics"] == tiny_metrics().model.figures
    assert meta["params"]["train"]["epochs"] == SETTINGS.train.epochs
    model = Predictor.load(packed, device="cpu").ranker.network  # type: ignore[attr-defined]
    assert meta["parameters"] == sum(tensor.numel() for tensor in model.state_dict().values())
    for library in ("cascadexml", "torch", "transformers"):
        assert meta["libraries"][library]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("abä "),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_any_origin_and_calibration_read_back(packed: Path, small_corpus: Corpus, data: st.DataObject) -> None:
    origin = Origin(
        name=data.draw(st.text(st.characters(codec="utf-8"), min_size=1)),
        params=data.draw(st.dictionaries(st.sampled_from(["train", "evaluate"]), json_values)),
        documents=data.draw(st.dictionaries(st.sampled_from(["train", "test"]), st.integers(0, 10**9))),
        git_revision=data.draw(st.none() | st.just("2" * 40)),
    )
    unit = st.floats(0.01, 1.0)
    calibration = Calibration(data.draw(unit), data.draw(st.floats(-5, 5)), data.draw(unit))
    path = packed.parent / "again"
    pack_again(path, packed.parent, small_corpus, origin=origin, calibration=calibration)
    found = open_artifact(path)
    assert {key: found.meta[key] for key in asdict(origin)} == asdict(origin)
    assert found.calibration() == calibration


def test_the_same_parts_give_the_same_bytes(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    pack_again(tmp_path / "again", packed.parent, small_corpus)
    assert contents(tmp_path / "again") == contents(packed)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_changed_or_cut_byte_is_refused(packed: Path, data: st.DataObject) -> None:
    path = packed.parent / "damaged"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(packed, path)
    names = sorted(name for name, content in contents(path).items() if content and name != "manifest.json")
    file = path / data.draw(st.sampled_from(names))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    file.write_bytes(content)
    with pytest.raises(FormatError, match=str(file)):
        Predictor.load(path)


def newer(path: Path) -> None:
    edit(path, version=99)


def older(path: Path) -> None:
    """As packed before rankers had a folder each."""
    (path / "rankers" / "cascade" / "network").rename(path / "model")
    (path / "rankers" / "cascade" / "tokenizer").rename(path / "tokenizer")
    shutil.rmtree(path / "rankers")
    edit(path, version=1)


def edit(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def boast(path: Path) -> None:
    meta = json.loads((path / "manifest.json").read_text())["meta"]
    edit(path, meta=meta | {"metrics": {"P@1": 1.0}})


def link(path: Path) -> None:
    (path / "metrics.json").rename(path.parent / "elsewhere.json")
    (path / "metrics.json").symlink_to(path.parent / "elsewhere.json")


def link_folder(path: Path) -> None:
    tokenizer = path / "rankers" / "cascade" / "tokenizer"
    tokenizer.rename(path.parent / "tokenizer")
    tokenizer.symlink_to(path.parent / "tokenizer")


def stranger(path: Path) -> None:
    (path / "rankers" / "cascade" / "tokenizer" / "tokenizer.py").write_text("raise SystemExit")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (newer, "format version 99 of cascadexml.artifact, this library reads version 2: install a newer"),
        (
            older,
            "format version 1 of cascadexml.artifact, this library reads version 2: it was written by an older "
            "cascadexml; make it again",
        ),
        (boast, "was changed after it was written"),
        (link, "metrics.json is listed in the manifest but is not a file"),
        (link_folder, "tokenizer is not in the manifest"),
        (stranger, "tokenizer.py is not in the manifest"),
        (lambda path: (path / "vocabulary.json").unlink(), "vocabulary.json is listed in the manifest but is not"),
        (lambda path: (path / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda path: (path / "manifest.json").write_bytes(b""), "cannot be read as a manifest"),
    ],
)
def test_a_spoilt_artifact_is_refused_by_name(copy: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(copy)
    with pytest.raises(FormatError) as refusal:
        Predictor.load(copy)
    assert says in str(refusal.value)
    assert str(copy) in str(refusal.value)


def test_parts_that_do_not_belong_together_are_refused(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    vocabulary = Vocabulary(("a", "b"), (None, None), 2)
    pack_again(tmp_path / "odd", packed.parent, small_corpus, vocabulary=vocabulary, label_counts=np.ones(2, np.int64))
    with pytest.raises(FormatError, match=f"ranks {small_corpus.vocabulary.L} labels, the vocabulary 2"):
        Predictor.load(tmp_path / "odd")


def test_any_ranker_answers_and_others_may_lie_beside_it(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    train = small_corpus.splits["train"]
    popular = Popularity.fit(train.Y[:, : small_corpus.vocabulary.L])
    popular.save(tmp_path / "popular")
    model = packed.parent / "model"
    pack_again(tmp_path / "one", packed.parent, small_corpus, ranker=tmp_path / "popular", others=[model])
    pack_again(tmp_path / "other", packed.parent, small_corpus, ranker=model, others=[tmp_path / "popular"])
    one, other = open_artifact(tmp_path / "one"), open_artifact(tmp_path / "other")
    assert one.meta["rankers"] == other.meta["rankers"] == ["cascade", "popularity"]
    assert (one.meta["ranker"], other.meta["ranker"]) == ("popularity", "cascade")
    expected = [small_corpus.vocabulary.ids[row] for row in popular.rank(Documents(["water"]), 3).labels[0]]
    assert [p.id for p in Predictor.from_artifact(one).predict("water", top_k=3)] == expected
    assert other.ranker("cpu").kind == "cascade"
    assert (
        one.tree.fingerprint == other.tree.fingerprint == FORMAT_OF_TREES.read(model / "network" / "tree").fingerprint
    )
    card = (tmp_path / "one" / "model_card.md").read_text(encoding="utf-8")
    assert "cut to" not in card and "Encoder" not in card and "None" not in card
    pack_again(tmp_path / "alone", packed.parent, small_corpus, ranker=tmp_path / "popular")
    with pytest.raises(FormatError, match="holds the rankers popularity and no cascade"):
        _ = open_artifact(tmp_path / "alone").tree


def test_a_blend_answers_and_its_cascade_is_found(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    folder = packed.parent
    cascade = CascadeRanker.load(folder / "model", "cpu")
    blend = tiny_blend(small_corpus, cascade)
    blend.save(tmp_path / "blend")
    pack_again(tmp_path / "artifact", folder, small_corpus, ranker=tmp_path / "blend")
    found, plain = open_artifact(tmp_path / "artifact"), open_artifact(packed)
    assert (found.meta["ranker"], found.meta["rankers"]) == ("blend", ["blend"])
    for fact in ("parameters", "encoder", "max_length"):
        assert found.meta[fact] == plain.meta[fact]
    assert found.network.fingerprint == plain.network.fingerprint
    assert found.tree.fingerprint == plain.tree.fingerprint
    older = open_predecessor(tmp_path / "artifact", small_corpus.vocabulary)
    assert older.parts("network", NETWORK_FORMAT, 1)[0].fingerprint == plain.network.fingerprint
    texts = small_corpus.splits["test"].texts[:5]
    expected = blend.rank(Documents(texts), 3).labels
    predicted = Predictor.from_artifact(found, "cpu").predict(texts, top_k=3)
    assert [[small_corpus.vocabulary.ids[row] for row in rows] for rows in expected] == [
        [label.id for label in labels] for labels in predicted
    ]


def test_a_blend_of_an_ensemble_answers_and_each_of_its_networks_is_found(
    packed: Path, small_corpus: Corpus, tmp_path: Path
) -> None:
    ensemble = tiny_ensemble(small_corpus, packed.parent / "encoder", members=3)
    blend = tiny_blend(small_corpus, ensemble)
    blend.save(tmp_path / "blend")
    pack_again(tmp_path / "artifact", packed.parent, small_corpus, ranker=tmp_path / "blend")
    found, plain = open_artifact(tmp_path / "artifact"), open_artifact(packed)
    assert (found.meta["networks"], plain.meta["networks"]) == (3, 1)
    assert found.meta["parameters"] == sum(t.numel() for m in ensemble.members for t in m.network.state_dict().values())
    for fact in ("encoder", "max_length"):
        assert found.meta[fact] == plain.meta[fact]
    assert "| Networks | 3, an ensemble |" in (tmp_path / "artifact" / "model_card.md").read_text(encoding="utf-8")
    assert "Networks" not in (packed / "model_card.md").read_text(encoding="utf-8")
    older = open_predecessor(tmp_path / "artifact", small_corpus.vocabulary)
    parts = older.parts("network/tree", FORMAT_OF_TREES, 3)
    for part, member in zip(parts, ensemble.members, strict=True):
        assert np.array_equal(LabelTree.load(part).leaf_order, member.network.tree.leaf_order)
    assert found.tree.fingerprint == parts[0].fingerprint != parts[1].fingerprint
    with pytest.raises(
        ConfigError, match=r"train\.ensemble is 2, and .*artifact holds 3 networks to start from: set tr"
    ):
        older.parts("network/tree", FORMAT_OF_TREES, 2)
    texts = small_corpus.splits["test"].texts[:5]
    predicted = Predictor.from_artifact(found, "cpu").predict(texts, top_k=3)
    assert [[small_corpus.vocabulary.ids[row] for row in rows] for rows in blend.rank(Documents(texts), 3).labels] == [
        [label.id for label in labels] for labels in predicted
    ]


def test_an_ensemble_answers_alone(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    ensemble = tiny_ensemble(small_corpus, packed.parent / "encoder")
    ensemble.save(tmp_path / "ensemble")
    pack_again(tmp_path / "artifact", packed.parent, small_corpus, ranker=tmp_path / "ensemble")
    found = open_artifact(tmp_path / "artifact")
    assert (found.meta["ranker"], found.meta["networks"]) == ("ensemble", 2)
    assert len(open_predecessor(found.path).parts("network", NETWORK_FORMAT, 2)) == 2
    expected = [small_corpus.vocabulary.ids[row] for row in ensemble.rank(Documents(["water"]), 3).labels[0]]
    assert [p.id for p in Predictor.from_artifact(found, "cpu").predict("water", top_k=3)] == expected


def test_packing_checks_its_inputs_and_leaves_nothing(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "never"
    with pytest.raises(DataError, match="label_counts has shape"):
        pack_again(path, packed.parent, small_corpus, label_counts=np.ones(3, np.int64))
    with pytest.raises(FormatError, match=r"is a 'cascadexml\.artifact', expected a ranker"):
        pack_again(path, packed.parent, small_corpus, ranker=packed)
    with pytest.raises(FormatError, match="holds no manifest"):
        pack_again(path, packed.parent, small_corpus, ranker=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is a second cascadexml\.ranker\.cascade"):
        pack_again(path, packed.parent, small_corpus, others=[packed.parent / "model"])
    assert not list(tmp_path.iterdir())


def test_read_only_sources_can_be_packed_and_replaced(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    # DVC protects what lies in its cache, and so its copies, by file mode.
    folder = tmp_path / "source"
    shutil.copytree(packed.parent / "model", folder / "model")
    for file in (f for f in folder.rglob("*") if f.is_file()):
        file.chmod(0o444)
    for _ in range(2):
        pack_again(tmp_path / "artifact", folder, small_corpus)
    assert all(f.stat().st_mode & 0o200 for f in (tmp_path / "artifact").rglob("*"))
    assert contents(tmp_path / "artifact") == contents(packed)


def test_the_model_card_is_filled_from_the_run(packed: Path, small_corpus: Corpus) -> None:
    card = (packed / "model_card.md").read_text(encoding="utf-8")
    for told in (
        "# tiny",
        f"{small_corpus.vocabulary.L:,} labels",
        "|  | this model | label popularity |",
        "| P@1 | 43.21 (42.21 to 44.21) | 10.80 (10.00 to 11.00) |",
        "| nDCG@5 | 50.00 (49.00 to 51.00) | 12.50 |",
        "| tail | 7 | 9 | 12.50 (10.00 to 15.00) |",
        "threshold 0.2500",
        "| wanted | head | torso | tail |",
        "| 0.5 | 55.0 (30.0) | 55.0 (30.0) | 55.0 (30.0) |",
        "| 0.95 | none given | not reached | not reached |",
        "that is 18.75.",
        "train 300, dev 60, test 60",
        f'"encoder_lr": {SETTINGS.train.encoder_lr}',
        small_corpus.fingerprint,
        "Predictor.load(",
    ):
        assert told in card
    assert not [mark for mark in ("$", "{{", "{%") if mark in card]


def test_the_cards_head_is_what_model_hubs_read(packed: Path) -> None:
    card = ModelCard((packed / "model_card.md").read_text(encoding="utf-8"))
    head = card.data.to_dict()
    assert (head["library_name"], head["pipeline_tag"]) == ("cascadexml", "text-classification")
    assert "extreme-multi-label-classification" in head["tags"]
    assert card.text.strip().startswith("# tiny")


def test_a_card_is_made_without_a_network_and_takes_no_text_for_a_template(
    packed: Path, small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("something asked for a network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    name = "{{ 6 * 7 }} {% raw %} <b> # | ---\nof one"
    pack_again(tmp_path / "odd", packed.parent, small_corpus, origin=Origin(name=name))
    assert f"# {name}\n" in (tmp_path / "odd" / "model_card.md").read_text(encoding="utf-8")


STATED = {
    "data": "Minutes of a society",
    "data_licence": "CC0-1.0",
    "intended_use": "Finding the minutes again.",
    "limits": "Only what was said aloud.",
}


@pytest.mark.parametrize("missing", [None, *STATED])
def test_the_card_says_what_the_settings_state_and_what_they_do_not(
    packed: Path, small_corpus: Corpus, tmp_path: Path, missing: str | None
) -> None:
    package = {"name": "minutes", **STATED, **({missing: None} if missing else {})}
    origin = Origin(name="minutes", params={"package": package}, data_fingerprint="f" * 64, git_revision="0" * 40)
    pack_again(tmp_path / "minutes", packed.parent, small_corpus, origin=origin)
    text = (tmp_path / "minutes" / "model_card.md").read_text(encoding="utf-8")
    card, _, parameters = text.partition("## Training parameters")
    for key, value in STATED.items():
        assert (value in card) == (key != missing)
    assert card.lower().count("not stated") == bool(missing)
    assert "None" not in card
    assert json.loads(parameters.partition("```json")[2].partition("```")[0])["package"] == package


def test_a_card_without_evaluation_says_so(packed: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    pack_again(tmp_path / "bare", packed.parent, small_corpus, metrics=EvaluationReport(), origin=Origin(name="bare"))
    card = (tmp_path / "bare" / "model_card.md").read_text(encoding="utf-8")
    assert "Not measured." in card
    assert "Not stated." in card
