"""Packing: what training and evaluation made → one artifact."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from cascadexml.artifact.formats import ARTIFACT, REFERENCE, networks
from cascadexml.artifact.model_card import render
from cascadexml.artifact.origin import Origin
from cascadexml.bundle import Bundle
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.report import EvaluationReport
from cascadexml.rankers.base import FORMATS, PREFIX, ranker_bundle

LIBRARIES = ("cascadexml", "numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")


def pack(
    path: Path,
    *,
    ranker: Path,
    others: Sequence[Path] = (),
    vocabulary: Vocabulary,
    label_counts: npt.NDArray[np.integer],
    calibration: Calibration,
    metrics: EvaluationReport,
    origin: Origin,
    reference: Path | None = None,
) -> None:
    """Write an artifact to `path`, whole or not at all; one that lies there is replaced.

    Args:
        path: the artifact's folder.
        ranker: the one that answers: a bundle that its `save` wrote. It is packed byte for byte.
        others: further rankers, each of another kind.
        vocabulary: its rows [0, L) are the ranker's labels.
        label_counts: (len(vocabulary),) training documents of each label.
        calibration: fitted on dev, for the ranker that answers.
        metrics: the evaluation on test.
        origin: where all this comes from.
        reference: a bundle that `Reference.save` wrote, or None to leave it out.

    Raises:
        FormatError: `ranker` or one of `others` is no ranker's bundle, `reference` no reference, or one is damaged.
        DataError: `label_counts` has not one count a label, or two rankers are of one kind.
    """
    if label_counts.shape != (len(vocabulary),):
        raise DataError(f"label_counts has shape {label_counts.shape}, expected ({len(vocabulary)},): one a label.")
    rankers: dict[str, Bundle] = {}
    for folder in (ranker, *others):
        found = ranker_bundle(folder)
        if rankers.setdefault(found.kind.removeprefix(PREFIX), found) is not found:
            raise DataError(f"{folder} is a second {found.kind}: pack one ranker of a kind.")
    copies = {f"rankers/{kind}": found.path for kind, found in rankers.items()}
    if reference is not None:
        copies["reference"] = REFERENCE.read(reference).path
    answers = next(iter(rankers))
    meta = {
        **asdict(origin),
        "ranker": answers,
        "rankers": sorted(rankers),
        "labels": vocabulary.L,
        **_facts(rankers[answers]),
        "metrics": dict(metrics.model.figures),
        "threshold": calibration.threshold,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }
    with ARTIFACT.write(path, meta) as folder:
        for name, source in copies.items():
            # copyfile, because files in DVC's cache are read-only and a copy of their mode would be too.
            shutil.copytree(source, folder / name, copy_function=shutil.copyfile)
        vocabulary.save(folder / "vocabulary.json")
        calibration.save(folder / "calibration.json")
        np.save(folder / "label_counts.npy", np.asarray(label_counts, dtype=np.int64), allow_pickle=False)
        text = json.dumps(metrics.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        (folder / "model_card.md").write_text(render(meta, metrics), encoding="utf-8")


def _facts(ranker: Bundle) -> dict[str, Any]:
    """Of networks their number and size, their encoder's shape and how long a text may be; others have none."""
    places = networks(ranker.files, ("", "cascade"))
    if not places:
        return {"max_length": None, "networks": 0, "parameters": None, "encoder": None}
    first = ranker.part(places[0], FORMATS["cascade"]) if places[0] else ranker
    encoder = json.loads((first.path / "network" / "encoder.json").read_text(encoding="utf-8"))
    return {
        "max_length": first.meta["max_length"],
        "networks": len(places),
        "parameters": sum(_count_parameters(ranker.path / place / "network" / "model.safetensors") for place in places),
        "encoder": {key: encoder.get(key) for key in ("model_type", "num_hidden_layers", "hidden_size")},
    }


def _count_parameters(weights: Path) -> int:
    try:
        with safe_open(weights, framework="numpy") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{weights} cannot be read as safetensors ({error}): train again.") from None
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
