"""Artifacts sealed anew around one wrong value: they are used as they are, or refused in one sentence."""

import base64
import contextlib
import io
import json
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from cascadexml import Predictor
from cascadexml.artifact import open_artifact
from cascadexml.artifact.exporting import export_artifact
from cascadexml.bundle import kind_of
from cascadexml.checked_json import parse_json
from cascadexml.cli.evaluate import evaluate
from cascadexml.cli.info import info
from cascadexml.data.corpus import Corpus
from cascadexml.data.sparse_files import MAX_EMPTY_ROWS, read_npy, read_npz
from cascadexml.data.tokens import CHARACTERS, tokenize
from cascadexml.errors import CascadeXMLError, DataError, FormatError
from cascadexml.evaluation.records import matrix_with_uses
from cascadexml.monitoring import reference
from cascadexml.monitoring.reference import Reference
from cascadexml.rankers.cascade import stored
from cascadexml.rankers.cascade.encoder import load_tokenizer
from tests.conftest import REPO, sample_records
from tests.support.tampering import (
    Forgery,
    array_forgeries,
    file_forgeries,
    forged,
    json_forgeries,
    replace_by,
    reseal,
)
from tests.support.tiny_artifacts import pack_again, pack_tiny_blend, tiny_reference

JSON, ARRAYS, FILES, EXPORTED = 75, 25, 15, 12
"""Forgeries that are tried, of some 10,700 of JSON, 880 of arrays, 160 of whole files: the same each time."""
CASCADE = "rankers/blend/cascade"
ENCODER, RULES = f"{CASCADE}/network/encoder.json", f"{CASCADE}/tokenizer/tokenizer.json"
SENTENCE = 1000


@dataclass(frozen=True)
class Site:
    """An artifact of every source with a reference, the same exported, and what both are asked."""

    torch: Path
    onnx: Path
    texts: list[str]
    records: Path


@pytest.fixture(scope="module")
def site(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("tamper")
    pack_tiny_blend(folder, small_corpus)
    tiny_reference(folder, small_corpus)
    changes = {"ranker": folder / "blend", "reference": folder / "reference"}
    pack_again(folder / "torch", folder, small_corpus, **changes)
    export_artifact(open_artifact(folder / "torch"), folder / "onnx")
    records = folder / "records.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in sample_records("test", 8)))
    return Site(folder / "torch", folder / "onnx", [*small_corpus.splits["test"].texts[:3], ""], records)


def told(artifact: Path, site: Site) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        info.callback(str(artifact), False)  # type: ignore[misc]
        info.callback(str(artifact), True)  # type: ignore[misc]


def predicted(artifact: Path, site: Site) -> None:
    predictor = Predictor.load(artifact, "cpu")
    for predictions in [*predictor.predict(site.texts, threshold="tuned"), *predictor.predict(site.texts)]:
        assert all(isinstance(each.id, str) and isinstance(each.name, (str, type(None))) for each in predictions)
        assert all(0 <= each.probability <= 1 for each in predictions)
    predictor.explain(site.texts[0], top_k=2)


def evaluated(artifact: Path, site: Site) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        evaluate.callback(str(artifact), site.records, False, 64, "cpu")  # type: ignore[misc]
    assert "nan" not in said.getvalue()


def parts_read(artifact: Path, site: Site) -> None:
    found = open_artifact(artifact)
    found.metrics().to_json()
    if found.reference is not None:
        kept = Reference.load(found.reference)
        # What drift checks do first: native code walks over the rows.
        assert kept.Y_train.sum() == kept.Y_train.nnz
        kept.profile.table.to_pydict()


USES: tuple[Callable[[Path, Site], None], ...] = (told, predicted, evaluated, parts_read)


def outcomes(artifact: Path, site: Site) -> dict[str, str]:
    """How each use ends: "right", "refused", or what went wrong."""
    found = {}
    for use in USES:
        try:
            use(artifact, site)
            found[use.__name__] = "right"
        except CascadeXMLError as error:
            clear = "\n" not in str(error) and len(str(error)) < SENTENCE
            found[use.__name__] = "refused" if clear else f"no sentence: {str(error)[:200]}"
        except Exception as error:  # what is looked for
            found[use.__name__] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


def some(forgeries: Iterator[Forgery], count: int) -> list[Forgery]:
    """The same few of them each time."""
    return random.Random(0).sample(list(forgeries), count)


def check(artifact: Path, site: Site, forgeries: list[Forgery]) -> None:
    wrong, refused = [], 0
    for forgery in forgeries:
        with forged(artifact, forgery):
            found = outcomes(artifact, site)
        refused += "refused" in found.values()
        wrong += [f"{forgery}: {use}: {how}" for use, how in found.items() if how not in ("right", "refused")]
    assert not wrong, "\n".join(wrong)
    assert refused > len(forgeries) / 4


def test_a_right_artifact_is_used(site: Site) -> None:
    for artifact in (site.torch, site.onnx):
        before = {file: file.read_bytes() for file in artifact.rglob("*") if file.is_file()}
        reseal(artifact)
        # Sealing gives the writer's own bytes, so that what follows is refused for its value alone.
        assert {file: file.read_bytes() for file in before} == before
        assert outcomes(artifact, site) == dict.fromkeys((use.__name__ for use in USES), "right")


@pytest.mark.parametrize("part", range(3))
def test_no_value_of_a_json_file_does_more_than_to_be_refused(site: Site, part: int) -> None:
    check(site.torch, site, some(json_forgeries(site.torch), JSON)[part::3])


def test_no_array_does_more_than_to_be_refused(site: Site) -> None:
    check(site.torch, site, some(array_forgeries(site.torch), ARRAYS))


def test_no_file_does_more_than_to_be_refused(site: Site) -> None:
    check(site.torch, site, some(file_forgeries(site.torch), FILES))


def test_no_value_of_an_exported_model_does_more_than_to_be_refused(site: Site) -> None:
    every = (*json_forgeries(site.onnx), *array_forgeries(site.onnx), *file_forgeries(site.onnx))
    check(site.onnx, site, some((each for each in every if each.file.startswith(CASCADE)), EXPORTED))


def changed(file: str, **values: Any) -> Forgery:
    return Forgery(file, str(values)[:60], lambda data: json.dumps(json.loads(data) | values).encode())


PLACES = ("", *(f"rankers/blend/{part}" for part in ("", "linear/", "neighbours/", "vectors/", "names/")), "reference/")
REPLACE = {"type": "Replace", "pattern": {"String": "e"}, "content": "x" * 10}
LONG_MAP = base64.b64encode(struct.pack("<I", 4) + bytes(4) + b"x" * 10**6 + b"\0").decode()
BOMBS = (
    *(changed(ENCODER, **{key: 10**6}) for key in ("num_hidden_layers", "hidden_size", "vocab_size")),
    *(changed(ENCODER, **{key: 10**8}) for key in ("vocab_size", "max_position_embeddings", "intermediate_size")),
    changed(ENCODER, vocab_size=30_000, intermediate_size=30_000, hidden_size=30_000),
    changed(ENCODER, layer_norm_eps=-1.0),
    changed(f"{CASCADE}/network/config.json", shortlist=[0]),
    changed(RULES, normalizer=REPLACE | {"content": "x" * 10**6}),
    changed(RULES, normalizer=REPLACE | {"pattern": {"Regex": "."}, "content": "x" * 10**6}),
    changed(RULES, normalizer=REPLACE | {"pattern": {"String": ""}, "content": "x"}),
    changed(RULES, normalizer={"type": "Sequence", "normalizers": [REPLACE] * 9}),
    changed(RULES, normalizer={"type": "Prepend", "prepend": "x" * 10**6}),
    changed(RULES, normalizer={"type": "Precompiled", "precompiled_charsmap": LONG_MAP}),
    changed(
        RULES,
        padding={
            "strategy": {"Fixed": 10**5},
            "direction": "Right",
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    ),
    changed(f"{CASCADE}/tokenizer/config.json", num_labels=10**9),
    changed(f"{CASCADE}/tokenizer/tokenizer_config.json", vocab_file="/dev/zero"),
    *(Forgery(f"{place}manifest.json", "claims a billion labels", lambda data: of_a_billion(data)) for place in PLACES),
)


FAST = ("PreTrainedTokenizerFast", "RagTokenizer")
PANICS: tuple[dict[str, Any], ...] = (
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\4\0\0\0tree eel\0").decode()}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff\xff\0\0tree").decode()}},
    {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    {"model": {"type": "BPE", "vocab": {"e": 0}, "merges": [["e", "e"]]}},
    {"model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "", "vocab": {"eel": 0}}},
    {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2**31], "cls": ["[CLS]", 2]}},
)


@pytest.mark.parametrize("tokenizer", FAST)
@pytest.mark.parametrize("rules", PANICS)
def test_a_tokenizer_that_gives_up_is_refused(site: Site, tokenizer: str, rules: dict[str, Any]) -> None:
    """Rust's panics are no Exception, and some come at the first text only."""
    settings = changed(f"{CASCADE}/tokenizer/tokenizer_config.json", tokenizer_class=tokenizer)
    with (
        forged(site.torch, settings),
        forged(site.torch, changed(RULES, **rules)),
        pytest.raises(CascadeXMLError, match="tokenizer"),
    ):
        Predictor.load(site.torch, "cpu").predict(["The eel sees the sea.", "é" * 200])


def of_a_billion(data: bytes) -> bytes:
    """A manifest that says so of labels."""
    content = json.loads(data)
    content["meta"] |= dict.fromkeys({"L", "labels"} & set(content["meta"]), 10**9)
    return json.dumps(content).encode()


def of_a_few_bytes(data: bytes) -> bytes:
    """An array that claims a terabyte."""
    sink = io.BytesIO()
    np.lib.format.write_array_header_1_0(sink, {"descr": "<i8", "fortran_order": False, "shape": (2**37,)})
    return sink.getvalue()


def test_sizes_are_those_that_the_weights_justify(site: Site) -> None:
    """In a process that may not take much more than a right artifact does."""
    code = "from tests.artifact.test_tamper import bombs; bombs()"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(site.torch)], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout.splitlines()) == (0, ["right", *["refused"] * len(all_bombs())]), ran.stderr


def all_bombs() -> list[Forgery]:
    arrays = ("label_counts.npy", "rankers/blend/uses.npy", "reference/words.npy")
    # Padding of its own is nothing that the library asks a tokenizer for.
    told_off = [each for each in BOMBS if "padding" not in str(each)]
    return [*told_off, *(Forgery(name, "claims a terabyte", of_a_few_bytes) for name in arrays)]


def bombs() -> None:
    import resource

    artifact = Path(sys.argv[1])

    def end() -> str:
        try:
            Predictor.load(artifact, "cpu").predict(["The eel sees the sea. " * 20])
            found = open_artifact(artifact)
            if found.reference is not None:
                Reference.load(found.reference)
        except CascadeXMLError as error:
            # What had to be stopped by the limit was not refused for what it says.
            late = "memory" in str(error) or "alloc" in str(error)
            return "refused" if len(str(error)) < SENTENCE and not late else str(error)
        return "right"

    print(end())
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**29, taken + 2**29))
    for bomb in all_bombs():
        with forged(artifact, bomb):
            print(end())


def test_padding_and_cutting_that_a_tokenizer_asks_for_are_not_done(site: Site) -> None:
    ours = Predictor.load(site.torch, "cpu").rank(site.texts, 5)
    (padding,) = (each for each in BOMBS if "padding" in str(each))
    with forged(site.torch, padding):
        assert (Predictor.load(site.torch, "cpu").rank(site.texts, 5).scores == ours.scores).all()


def test_keys_that_would_reach_other_code_are_passed_over(site: Site) -> None:
    reaching = dict.fromkeys(("attn_implementation", "_attn_implementation", "experts_implementation"), "x/kernel")
    with forged(site.torch, changed(ENCODER, **reaching, _name_or_path="x", use_pretrained_backbone=True)):
        config = Predictor.load(site.torch, "cpu").ranker.sources.cascade.network.encoder.config  # type: ignore[attr-defined]
    assert "x/kernel" not in str(vars(config))


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", ["manifest.json", "vocabulary.json", f"{CASCADE}/manifest.json"])
def test_links_and_pipes_are_refused_unread(site: Site, tmp_path: Path, kind: str, name: str) -> None:
    artifact = shutil.copytree(site.torch, tmp_path / "copy")
    replace_by(artifact, name, kind)
    assert set(outcomes(artifact, site).values()) == {"refused"}
    if kind == "pipe" and name == "manifest.json":
        with pytest.raises(FormatError, match="no regular file"):
            kind_of(artifact)


def test_a_matrix_of_a_few_bytes_claims_no_billion_of_columns(tmp_path: Path) -> None:
    for shape in ((3, 10**9), (10**9, 3)):
        np.savez(
            tmp_path / "Y.npz",
            format=np.array("coo"),
            shape=np.array(shape),
            data=np.ones(1),
            row=np.zeros(1, np.int64),
            col=np.zeros(1, np.int64),
        )
        with pytest.raises(DataError, match="for 1 entries"):
            read_npz(tmp_path / "Y.npz")
    wide = sparse.csr_matrix((3, MAX_EMPTY_ROWS))
    sparse.save_npz(tmp_path / "Y.npz", wide)
    assert read_npz(tmp_path / "Y.npz").shape == wide.shape


@pytest.mark.parametrize("array", [np.arange(5), np.zeros((0, 3)), np.float32(3), np.asfortranarray(np.eye(3)), "x"])
def test_an_array_reads_back_or_is_refused(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    assert np.array_equal(found, array) and found.dtype == np.asarray(array).dtype
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes() + b"x")
    with pytest.raises(ValueError, match="claims"):
        read_npy(tmp_path / "a.npy")
    np.save(tmp_path / "o.npy", np.array([{}]))
    with pytest.raises(ValueError, match="claims object"):
        read_npy(tmp_path / "o.npy")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN"),
        ("[Infinity]", "Infinity"),
        ("1e999", "beyond"),
        ("[" * 100_000, "nested"),
        ("9" * 400, "400 digits"),
        ('"\\ud800"', "surrogates"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_json_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_figures_of_more_documents_than_there_can_be_are_refused() -> None:
    for uses, N in ((np.array([10**9, 10**9]), 10**9), (np.array([1]), 2 * 10**9)):
        with pytest.raises(ValueError, match="expected at most"):
            matrix_with_uses(uses, N, uses.size)


def test_a_reference_claims_no_more_rows_than_may_be(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MOST_VALUES", 100)
    found = open_artifact(site.torch)
    assert found.reference is not None
    with pytest.raises(FormatError, match="claims 120 rows"):
        Reference.load(found.reference)


def test_tables_of_an_encoder_are_no_larger_than_its_weights(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "TABLES", 100)
    with pytest.raises(ValueError, match="leads to tables of 258 numbers beside 0 weights"):
        stored.read_encoder_config(site.torch / ENCODER, {})


def test_a_text_is_cut_before_a_tokenizer_reads_it(site: Site) -> None:
    tokenizer = load_tokenizer(str(site.torch / CASCADE / "tokenizer"))
    long = "eel " + " " * (CHARACTERS - 5) + "sea"
    found, shorter = tokenize([long, "eel s"], tokenizer, 9), tokenize(["eel s"], tokenizer, 9)
    assert found.batch(np.array([0])).input_ids.tolist() == shorter.batch(np.array([0])).input_ids.tolist()
