"""Exporting: an artifact → the same model with its encoder in ONNX, as an artifact of its own."""

from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from cascadexml.artifact.artifact import Artifact
from cascadexml.artifact.formats import ARTIFACT, Exported
from cascadexml.artifact.model_card import render
from cascadexml.bundle import MANIFEST
from cascadexml.errors import ConfigError
from cascadexml.rankers.cascade.onnx_encoder import onnx_packages
from cascadexml.rankers.cascade.onnx_ranker import Precision
from cascadexml.rankers.exporting import copy_but, export_ranker, exported_kind

CARD = "model_card.md"
LIBRARIES = ("cascadexml", "onnx", "onnxruntime", "torch", "transformers")


def export_artifact(artifact: Artifact, path: Path, precision: Precision = "fp32") -> None:
    """Write to `path` an artifact whose encoder ONNX Runtime runs, whole or not at all; what lies there is replaced.

    Vocabulary, calibration, figures, reference and the blend's weights are the artifact's own, byte for byte. Its
    manifest gains `exported`, which tells what it was made from.

    Args:
        artifact: whose ranker is a cascade, an ensemble or a blend.
        path: the new artifact's folder.
        precision: what the encoder's linear layers multiply in.

    Raises:
        ConfigError: onnx or onnxruntime is not installed; the artifact is an export, or has no encoder; `path` is its
            own folder; the encoder is larger than an ONNX file may be.
        EncoderError: torch cannot export this encoder.
        FormatError: the artifact's parts do not fit.
    """
    onnx_packages()
    meta = artifact.meta
    if "exported" in meta:
        raise ConfigError(f"{artifact.path} was exported already: export the artifact that it was made from.")
    if path.resolve() == artifact.path.resolve():
        raise ConfigError(f"{path} is the artifact that is exported: name another folder.")
    kinds = {kind: exported_kind(kind) or kind for kind in meta["rankers"]}
    if exported_kind(meta["ranker"]) is None:
        raise ConfigError(f"{artifact.path} is answered by {meta['ranker']}, which has no encoder: nothing to export.")
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    exported = Exported("onnx", precision, artifact.fingerprint, artifact.ranker_fingerprint, libraries)
    told = {
        **meta,
        "ranker": kinds[meta["ranker"]],
        "rankers": sorted(kinds.values()),
        "exported": asdict(exported),
    }
    with ARTIFACT.write(path, told) as folder:
        copy_but(artifact.path, folder, "rankers", MANIFEST, CARD)
        for kind, new in kinds.items():
            source, target = artifact.ranker_bundle(kind), folder / "rankers" / new
            if exported_kind(kind) is None:
                target.mkdir(parents=True)
                copy_but(source.path, target)
            else:
                export_ranker(source, target, precision)
        (folder / CARD).write_text(render(told, artifact.metrics(), exported), encoding="utf-8")
