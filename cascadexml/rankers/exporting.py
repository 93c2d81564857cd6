"""Exporting: a ranker with a cascade in it → the same with the cascade's encoder in ONNX, in fp32 or int8.

What is no encoder is copied byte for byte: trees, classifiers' rows, tokenizers, the blend's other sources and weights.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cascadexml.bundle import MANIFEST, Bundle
from cascadexml.errors import ConfigError, EncoderError
from cascadexml.rankers.base import FORMATS, PREFIX
from cascadexml.rankers.cascade.network import CascadeXML, ModelConfig, vectors_of
from cascadexml.rankers.cascade.onnx_encoder import INPUTS, OnnxEncoder, onnx_packages, output_names
from cascadexml.rankers.cascade.onnx_ranker import ENCODER, OnnxRanker, Precision, meta_of, write_classifiers
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.ensemble import Ensemble, cascade_part, member_name, members_of
from cascadexml.rankers.quantising import quantised

OPSET = 17
"""The first that has layer normalisation."""
LARGEST = 2**31 - 2**24
"""Bytes of weights that go into one ONNX file, which protobuf limits to 2 GiB."""
TOLERANCE = 1e-4
"""How far a vector of the graph may lie from torch's, in numbers of about 1."""
SHAPES = ((1, 1), (1, 7), (3, 12), (5, 33))
"""Texts and tokens that the graph is tried on."""


def exported_kind(kind: str) -> str | None:
    """The kind that a ranker of a kind has when it is exported; None where it holds nothing to export."""
    return {"cascade": OnnxRanker.kind, "ensemble": "ensemble", "blend": "blend"}.get(kind)


def export_ranker(source: Bundle, folder: Path, precision: Precision) -> None:
    """Write to `folder` the bundle of a ranker whose encoders are in ONNX, whole or not at all.

    Args:
        source: the verified bundle of a cascade, an ensemble or a blend.
        folder: where the new bundle will lie; one that is there is replaced.
        precision: what the encoder's linear layers multiply in.

    Raises:
        ConfigError: onnx or onnxruntime is not installed; it is exported already, or holds no cascade; the encoder is
            larger than an ONNX file may be.
        EncoderError: torch cannot export the encoder, or the graph does not give what the encoder does.
        FormatError: its parts do not fit.
    """
    kind = source.kind.removeprefix(PREFIX)
    if kind == CascadeRanker.kind:
        _export_cascade(source, folder, precision)
    elif kind == Ensemble.kind:
        with FORMATS[kind].write(folder, source.meta) as new:
            for i in range(members_of(source)):
                export_ranker(cascade_part(source, member_name(i)), new / member_name(i), precision)
    elif kind == "blend":
        with FORMATS[kind].write(folder, source.meta) as new:
            copy_but(source.path, new, "cascade", MANIFEST)
            export_ranker(cascade_part(source, "cascade"), new / "cascade", precision)
    elif kind == OnnxRanker.kind:
        raise ConfigError(f"{source.path} was exported to ONNX already: export what it was exported from.")
    else:
        raise ConfigError(f"{source.path} is a {source.kind!r} and has no encoder: export a model with a cascade.")


def copy_but(source: Path, target: Path, *left_out: str) -> None:
    """Copy what lies in one folder into another that is there, but for some names."""
    for each in sorted(source.iterdir()):
        if each.name in left_out:
            continue
        if each.is_dir():
            # copyfile, because files in DVC's cache are read-only and a copy of their mode would be too.
            shutil.copytree(each, target / each.name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(each, target / each.name)


def _export_cascade(source: Bundle, folder: Path, precision: Precision) -> None:
    ranker = CascadeRanker.load(source, "cpu")
    network = ranker.network
    d = network.heads[-1].d
    with FORMATS[OnnxRanker.kind].write(folder, meta_of(ranker.L, ranker.max_length, d, precision)) as new:
        write_encoder(network, new / ENCODER)
        _compare(network, OnnxEncoder(new / ENCODER, len(network.heads), d))
        if precision == "int8":
            (new / ENCODER).write_bytes(quantised((new / ENCODER).read_bytes()))
            OnnxEncoder(new / ENCODER, len(network.heads), d)
        shutil.copytree(source.path / "tokenizer", new / "tokenizer", copy_function=shutil.copyfile)
        write_classifiers(network, network.config, network.tree, new)


class _Traced(nn.Module):
    """Of a network what goes into the graph: tokens → each resolution's vectors."""

    def __init__(self, network: CascadeXML) -> None:
        super().__init__()
        self.encoder, self.joins = network.encoder, network.joins
        self.config: ModelConfig = network.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(vectors_of(self.encoder, self.joins, self.config, input_ids, attention_mask))


def write_encoder(network: CascadeXML, file: Path) -> None:
    """Write the encoder and the joins of a network in evaluation mode as an ONNX file, for any texts and tokens.

    Raises:
        ConfigError: onnx is not installed; the weights are more than an ONNX file may hold.
        EncoderError: torch cannot export this encoder.
    """
    onnx_packages()
    traced = _Traced(network).eval()
    size = sum(tensor.nbytes for tensor in (*traced.parameters(), *traced.buffers()))
    if size > LARGEST:
        raise ConfigError(
            f"the encoder has {size / 1e9:.1f} GB of weights, an ONNX file holds 2.1 GB: train with a smaller "
            "encoder, or keep the model as it is."
        )
    # One text is padded: a mask of ones alone would be traced as none.
    ids, mask = torch.full((2, 5), _some_id(network)), torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    outputs = output_names(len(network.heads))
    kept = network.encoder.config._attn_implementation
    # Written out, attention is a few nodes that ONNX Runtime knows; torch's fused one becomes many, and is slower.
    network.encoder.set_attn_implementation("eager")
    axes: dict[str, dict[int, str]] = {name: {0: "B", 1: "T"} for name in INPUTS} | {name: {0: "B"} for name in outputs}
    try:
        with warnings.catch_warnings():
            # That a traced condition stays as it was is what is wanted, and `_compare` looks at it.
            warnings.simplefilter("ignore")
            # The newer exporter needs onnxscript.
            torch.onnx.export(
                traced,
                (ids, mask),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=outputs,
                dynamic_axes=axes,
            )
    except (RuntimeError, TypeError, ValueError, torch.onnx.OnnxExporterError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(
            f"torch cannot export the encoder ({network.encoder.config.model_type}) to ONNX ({reason}): keep the model "
            "as it is."
        ) from error
    finally:
        network.encoder.set_attn_implementation(kept)


def _some_id(network: CascadeXML) -> int:
    """A token's id that is not the padding's."""
    config: Any = network.encoder.config
    last = int(config.vocab_size) - 1
    return last - 1 if config.pad_token_id == last else last


@torch.inference_mode()
def _compare(network: CascadeXML, encoder: OnnxEncoder) -> None:
    """Refuse a graph that gives other vectors than torch, for texts of other numbers and lengths than were traced."""
    random = torch.Generator().manual_seed(0)
    for B, T in SHAPES:
        ids = torch.randint(_some_id(network), (B, T), generator=random)
        lengths = torch.randint(1, T + 1, (B, 1), generator=random)
        mask = (torch.arange(T) < lengths).long()
        for ours, theirs in zip(encoder.vectors(ids, mask), network.vectors(ids, mask), strict=True):
            scale = theirs.abs().max().clamp(min=1)
            if not (ours - theirs).abs().max() <= TOLERANCE * scale:
                raise EncoderError(
                    f"the encoder ({network.encoder.config.model_type}) gives other vectors in ONNX than in torch: "
                    "keep the model as it is."
                )
