"""A cascade whose encoder is in ONNX against the one in torch; and files that hold anything else are refused."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cascadexml.bundle import MANIFEST
from cascadexml.data.corpus import Corpus
from cascadexml.errors import CascadeXMLError, ConfigError, EncoderError, FormatError, PredictionError
from cascadexml.rankers import exporting
from cascadexml.rankers.base import FORMATS, Documents, ranker_bundle
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.cascade.onnx_ranker import ENCODER, OnnxRanker, Precision
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.ensemble import Ensemble
from cascadexml.rankers.exporting import export_ranker
from cascadexml.rankers.loading import load_ranker
from cascadexml.rankers.popularity import Popularity
from tests.support.tiny_artifacts import MAX_LENGTH, tiny_blend, tiny_ensemble, tiny_model
from tests.support.tiny_encoders import ARCHITECTURES, make_tiny_encoder

K = 20


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade over an encoder of each architecture, and its exports."""
    folder = tmp_path_factory.mktemp(request.param)
    encoder = make_tiny_encoder(request.param, folder / "encoder", layers=2)
    CascadeRanker(tiny_model(small_corpus, encoder), load_tokenizer(str(encoder)), MAX_LENGTH).save(folder / "torch")
    for precision in ("fp32", "int8"):
        export(folder / "torch", folder / precision, precision)
    return folder


@pytest.fixture(scope="module")
def bert(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade and its export in fp32."""
    folder = tmp_path_factory.mktemp("one")
    encoder = make_tiny_encoder("bert", folder / "encoder", layers=2)
    CascadeRanker(tiny_model(small_corpus, encoder), load_tokenizer(str(encoder)), MAX_LENGTH).save(folder / "torch")
    export(folder / "torch", folder / "onnx")
    return folder


def export(source: Path, target: Path, precision: Precision = "fp32") -> None:
    export_ranker(ranker_bundle(source), target, precision)


def padded(lengths: list[int], width: int, vocabulary: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens, of the lengths given, padded to the width."""
    ids = torch.randint(5, vocabulary, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    return ids, (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9), padding=st.integers(0, 9), seed=st.integers(0, 2**31)
)
def test_scores_are_torchs_to_1e_4_for_any_texts(folder: Path, lengths: list[int], padding: int, seed: int) -> None:
    network, exported = CascadeXML.load(folder / "torch" / "network"), OnnxRanker.load(folder / "fp32").network
    vocabulary = network.encoder.config.vocab_size
    ids, mask = padded(lengths, max(lengths) + padding, vocabulary, seed)
    labels, scores, vectors = network.rank_with_vectors(ids, mask, network.tree.L)
    ours, theirs = by_label(labels, scores), by_label(*exported.rank_with_vectors(ids, mask, network.tree.L)[:2])
    for one, other in zip(ours, theirs, strict=True):
        # A cluster at the shortlist's end may make way for one that is as good.
        shared = sorted(one.keys() & other.keys())
        assert len(shared) > 0.9 * len(one)
        assert np.abs([one[label] - other[label] for label in shared]).max() < 1e-4
    assert (exported.rank_with_vectors(ids, mask, K)[2] - vectors).abs().max() < 1e-4


def by_label(labels: torch.Tensor, scores: torch.Tensor) -> list[dict[int, float]]:
    return [
        {label: score for label, score in zip(row, values, strict=True) if label >= 0}
        for row, values in zip(labels.tolist(), scores.tolist(), strict=True)
    ]


def test_int8_is_near_torch_and_the_same_in_any_batch(folder: Path, small_corpus: Corpus) -> None:
    texts = small_corpus.splits["test"].texts
    exact, rounded = load_ranker(folder / "torch", "cpu"), load_ranker(folder / "int8", "cpu")
    assert isinstance(exact, CascadeRanker) and isinstance(rounded, OnnxRanker) and rounded.precision == "int8"
    _, expected = exact.rank_with_vectors(Documents(texts), K)
    ranking, found = rounded.rank_with_vectors(Documents(texts), K)
    apart = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 1e-5 < apart.max() < 0.02, "rounded, and not by much"
    for n, text in enumerate(texts):
        alone = rounded.rank(Documents([text]), K)
        np.testing.assert_allclose(alone.scores[0], ranking.scores[n], rtol=0, atol=1e-6)


def test_exporting_twice_gives_the_same_bytes(bert: Path, tmp_path: Path) -> None:
    export(bert / "torch", tmp_path / "again")
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (bert / "onnx" / MANIFEST).read_bytes()


def test_classifiers_and_tree_are_those_of_the_network(bert: Path, tmp_path: Path) -> None:
    network, exported = CascadeXML.load(bert / "torch" / "network"), OnnxRanker.load(bert / "onnx").network
    for ours, theirs in zip(network.heads, exported.heads, strict=True):
        for one, other in zip(ours.rows(ours.slots), theirs.rows(theirs.slots), strict=True):
            assert torch.equal(one, other)
    np.testing.assert_array_equal(network.tree.leaf_order, exported.tree.leaf_order)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_stands_in_an_ensemble_and_in_a_blend(
    bert: Path, small_corpus: Corpus, tmp_path: Path, precision: Precision
) -> None:
    ensemble = tiny_ensemble(small_corpus, bert / "encoder")
    blend = tiny_blend(small_corpus, ensemble)
    blend.save(tmp_path / "blend")
    export(tmp_path / "blend", tmp_path / "exported", precision)
    found = load_ranker(tmp_path / "exported", "cpu")
    assert isinstance(found, Blend) and isinstance(found.sources.cascade, Ensemble)
    assert [member.kind for member in found.sources.cascade.members] == ["cascade-onnx"] * 2  # type: ignore[attr-defined]
    assert found.mixture == blend.mixture
    texts = [*small_corpus.splits["test"].texts, ""]
    ours, theirs = found.rank(Documents(texts), K), blend.rank(Documents(texts), K)
    tolerance = 1e-4 if precision == "fp32" else 0.05
    filled = np.isfinite(theirs.scores)
    np.testing.assert_array_equal(filled, np.isfinite(ours.scores))
    np.testing.assert_allclose(ours.scores[filled], theirs.scores[filled], rtol=0, atol=tolerance)
    for name in ("linear", "neighbours", "vectors"):
        for file in (tmp_path / "blend" / name).rglob("*"):
            copied = tmp_path / "exported" / file.relative_to(tmp_path / "blend")
            assert file.is_dir() or copied.read_bytes() == file.read_bytes()


def test_what_cannot_be_exported_is_refused(bert: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="was exported to ONNX already"):
        export(bert / "onnx", tmp_path / "again")
    Popularity.fit(small_corpus.splits["train"].Y[:, : small_corpus.vocabulary.L].tocsr()).save(tmp_path / "popular")
    with pytest.raises(ConfigError, match="popularity' and has no encoder"):
        export(tmp_path / "popular", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_encoder_too_large_for_a_file_is_refused(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="GB of weights, an ONNX file holds"):
        export(bert / "torch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_gives_other_vectors_is_not_written(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting.write_encoder

    def wrongly(network: CascadeXML, file: Path) -> None:
        with torch.no_grad():
            bias = network.encoder.get_parameter("embeddings.LayerNorm.bias")
            bias += 0.01
            write(network, file)
            bias -= 0.01

    monkeypatch.setattr(exporting, "write_encoder", wrongly)
    with pytest.raises(EncoderError, match="other vectors in ONNX than in torch"):
        export(bert / "torch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_without_its_packages_it_says_what_to_install(
    bert: Path, monkeypatch: pytest.MonkeyPatch, package: str, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for use in (lambda: load_ranker(bert / "onnx", "cpu"), lambda: export(bert / "torch", tmp_path / "out")):
        with pytest.raises(ConfigError, match=rf'needs {package}: pip install "cascadexml\[onnx\]"'):
            use()
    assert isinstance(load_ranker(bert / "torch", "cpu"), CascadeRanker)


def test_another_device_than_the_cpu_is_refused(bert: Path) -> None:
    with pytest.raises(PredictionError, match=r"device 'cuda': .* runs on the CPU: use cpu or auto"):
        load_ranker(bert / "onnx", "cuda")


def test_it_runs_on_as_many_threads_as_torch(bert: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        session = OnnxRanker.load(bert / "onnx").network.encoder.session
        assert session.get_session_options().intra_op_num_threads == 2
    finally:
        torch.set_num_threads(before)


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "someone.else"
    model.opset_import.append(helper.make_opsetid("someone.else", 1))


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("", "Mine", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


def branch(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body))


def not_a_number(model: onnx.ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda each: each.ByteSize())
    values = numpy_helper.to_array(tensor).copy()
    values.flat[7] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def too_large(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def other_names(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "tokens"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "input_ids":
                node.input[i] = "tokens"


def one_output_less(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def another_width(model: onnx.ModelProto) -> None:
    last = model.graph.output[-1].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_before" if name == last else name for name in node.output]
    model.graph.node.append(helper.make_node("Concat", [f"{last}_before"] * 2, [last], axis=1))
    model.graph.output[-1].type.tensor_type.shape.dim[1].Clear()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (outside, "points to another file"),
        (foreign_operator, "operators of someone.else"),
        (function, "functions"),
        (branch, "a loop, a branch"),
        (not_a_number, "NaN or infinite"),
        (too_large, "claims"),
        (other_names, "it goes from tokens, attention_mask"),
        (one_output_less, "it goes from input_ids, attention_mask to resolution_0"),
        (another_width, r"expected float32 of \(1, 32\)"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_foreign_graph_is_refused(
    bert: Path, tmp_path: Path, damage: Callable[[onnx.ModelProto], None], said: str
) -> None:
    """In a bundle whose manifest fits it, as whoever can write the folder can make."""
    model = onnx.load(bert / "onnx" / ENCODER)
    damage(model)
    with pytest.raises(FormatError, match=said) as raised:
        OnnxRanker.load(remade(bert / "onnx", tmp_path / "forged", model.SerializeToString()))
    assert ENCODER in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x07" * 50])
def test_what_is_no_graph_is_refused(bert: Path, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FormatError, match="is no encoder that cascadexml export wrote"):
        OnnxRanker.load(remade(bert / "onnx", tmp_path / "forged", content))


@pytest.mark.parametrize("cut", [1, 1000, 100_000])
def test_a_graph_cut_short_is_refused(bert: Path, tmp_path: Path, cut: int) -> None:
    content = (bert / "onnx" / ENCODER).read_bytes()[:-cut]
    with pytest.raises(FormatError, match="is no encoder that cascadexml export wrote"):
        OnnxRanker.load(remade(bert / "onnx", tmp_path / "forged", content))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"precision": "int4"}, "precision is 'int4'"), ({"d": 64}, "parts fit|expected float32"), ({"d": None}, "fit")],
)
def test_a_manifest_that_does_not_fit_is_refused(
    bert: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(CascadeXMLError, match=said):
        OnnxRanker.load(remade(bert / "onnx", tmp_path / "forged", None, **changes))


def remade(source: Path, target: Path, content: bytes | None, **changes: object) -> Path:
    """A bundle like another, with another encoder or another manifest, whose digests are right."""
    meta = ranker_bundle(source).meta
    with FORMATS["cascade-onnx"].write(target, {**meta, **changes}) as new:
        shutil.copytree(source, new, dirs_exist_ok=True, ignore=lambda at, _: [MANIFEST] * (at == str(source)))
        if content is not None:
            (new / ENCODER).write_bytes(content)
    return target
