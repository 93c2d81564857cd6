"""Incoming batches: reading one from any source, parting its records, and telling whether it is fit to learn from.

A batch that cannot be read at all is an error. One that can be read and holds the wrong columns, too much that is
refused, or records of another world is quarantined: nobody's mistake to mend at once, and nothing to train on.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascadexml.artifact.artifact import Artifact
from cascadexml.bundle import MANIFEST, sha256_of
from cascadexml.config import DownloadSettings, DriftSettings, ValidateSettings
from cascadexml.data import readers
from cascadexml.data.labelled import label_matrix
from cascadexml.data.readers.matrix import is_matrix_layout
from cascadexml.data.readers.records import OPENERS, RECORD_SCHEMA, concatenate, opened, text_columns
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError, FormatError
from cascadexml.monitoring.drift import compare, decide, quality_figures, unseen_figures
from cascadexml.monitoring.reference import Profile, Reference, make_profile, metadata_columns, observe
from cascadexml.monitoring.verdict import BatchSummary, Check, MonitoredModel, Verdict
from cascadexml.progress import Progress, silent
from cascadexml.quality.rules import COLUMNS, damaged, rejects_table, repeats, screen, trimmed
from cascadexml.rankers.base import Documents
from cascadexml.rankers.cascade.network import FORMAT as MODEL_FORMAT
from cascadexml.storage.addresses import public_name

log = logging.getLogger(__name__)


class _WrongColumns(Exception):  # noqa: N818 — it is caught here and becomes a reason for quarantine
    """A file that can be read has no such columns as the settings name."""


@dataclass(frozen=True)
class Incoming:
    """A batch after the row rules.

    Attributes:
        id: "<stem of the source>-<12 hex digits of the SHA-256 over the accepted records>".
        source: where it came from, without what may be secret.
        records: how many were read.
        accepted: RawRecords that passed.
        rejects: the others, with the columns of `quality.rules.rejects_table`.
        has_labels: whether any record that was read has a label.
        wrong_columns: why its columns are the wrong ones; None where they are right.
    """

    id: str
    source: str
    records: int
    accepted: pa.Table
    rejects: pa.Table
    has_labels: bool
    wrong_columns: str | None = None

    @property
    def labelled(self) -> int:
        """Accepted records that have a label."""
        return int(np.count_nonzero(np.asarray(pc.list_value_length(self.accepted.column("labels")))))


@dataclass(frozen=True)
class Examination:
    """What is known of a batch in the end.

    Attributes:
        verdict: on the batch.
        reference: the profile that the batch was compared with.
        profile: the batch's own; None where quarantine came before.
    """

    verdict: Verdict
    reference: Profile
    profile: Profile | None


def receive(path: Path, source: str, download: DownloadSettings, validate: ValidateSettings) -> Incoming:
    """Read a batch and part its records by the row rules of validation.

    All record files of a folder belong to the batch, whatever split their names tell. A batch of which no record has
    labels is read without them: then a record needs none.

    Args:
        path: what `fetch` gave.
        source: what it was fetched from.
        download: format and columns.
        validate: the bounds of the row rules.

    Raises:
        DataError: there is no file of records, or one is damaged.
    """
    files = [path] if path.is_file() else _record_files(path, download)
    stem = _stem(source)
    try:
        table = _read(path, files, download)
    except _WrongColumns as error:
        content = "".join(sha256_of(file) for file in files).encode()
        nothing = screen(RECORD_SCHEMA.empty_table(), validate)
        name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}"
        return Incoming(
            name, public_name(source), 0, nothing.kept, rejects_table({"batch": nothing}), False, str(error)
        )
    has_labels = bool(pc.any(pc.greater(pc.list_value_length(table.column("labels")), 0)).as_py())
    screened = screen(table, validate if has_labels else replace(validate, min_labels=0), "the batch")
    wrong = None
    if table.num_rows and not pc.count(table.column("text")).as_py():
        wrong = f"No record has a {download.columns.text!r}, the others are {_others(table)}: see download.columns."
    if not has_labels:
        log.warning("%s: no record has labels.", public_name(source))
    accepted = screened.kept
    content = _content(accepted) if accepted.num_rows else "".join(sha256_of(file) for file in files).encode()
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}"
    rejects = rejects_table({"batch": screened})
    return Incoming(name, public_name(source), table.num_rows, accepted, rejects, has_labels, wrong)


def validity(incoming: Incoming, reference: Reference, vocabulary: Vocabulary, settings: DriftSettings) -> list[Check]:
    """The checks that need no model and decide whether a batch is fit to be compared and learnt from.

    Args:
        incoming: the batch.
        reference: of the model.
        vocabulary: of the model.
        settings: the knobs of quarantine.
    """
    accepted, n = incoming.accepted, incoming.accepted.num_rows
    if incoming.wrong_columns is not None:
        return [Check(incoming.wrong_columns, "validity", "files with the wrong columns", 1.0, 0.0, None, True)]

    def check(name: str, statistic: str, value: float, most: float) -> Check:
        return Check(name, "validity", statistic, value, most, None, value > most)

    refused = incoming.records - n
    few = Check(
        "records", "validity", "accepted records", float(n), settings.min_records, None, n < settings.min_records
    )
    checks = [few, check("refused", "share of records", refused / max(incoming.records, 1), settings.max_refused_share)]
    if not n:
        return checks
    text = trimmed(accepted.column("text"))
    usual = float(np.median(reference.profile.numbers("characters")))  # type: ignore[arg-type]
    length = float(np.median(np.asarray(pc.utf8_length(accepted.column("text")))))
    ratio = max(length / max(usual, 1.0), usual / max(length, 1.0))
    checks += [
        check("repeated", "share of texts", float(repeats(text).mean()), settings.max_duplicate_share),
        check("damaged", "share of texts", float(damaged(text).mean()), settings.max_damaged_share),
        replace(
            check("length", "ratio of median characters", ratio, settings.max_length_ratio),
            reference=usual,
            batch=length,
        ),
    ]
    if incoming.has_labels:
        known = known_uses(accepted, vocabulary)
        share = 1 - float(known.mean()) if known.size else 0.0
        checks.append(check("unknown_labels", "share of label uses", share, settings.max_unseen_share))
    return checks


def examine(
    incoming: Incoming,
    artifact: Artifact,
    settings: DriftSettings,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Examination:
    """Compare a batch with the reference in an artifact, and give the verdict.

    A batch that is not fit to be compared is quarantined before the model sees it.

    Args:
        incoming: the batch.
        artifact: of the model that is to be monitored.
        settings: thresholds and bounds.
        seed: of folds and draws.
        device: as of `pick_device`.
        progress: called with (what, records done, n, {}).

    Raises:
        DataError: the artifact has no reference.
        FormatError: its reference is damaged, or of another model.
        PredictionError: out of memory.
    """
    if artifact.reference is None:
        raise DataError(
            f"{artifact.path} carries no reference to compare with: pack it again after dvc repro reference."
        )
    reference, vocabulary = Reference.load(artifact.reference), artifact.vocabulary()
    model = MODEL_FORMAT.read(artifact.model, digests=False)
    if reference.meta["model"] not in (None, model.fingerprint) or reference.meta["labels"] != vocabulary.L:
        raise FormatError(f"{artifact.reference} is the reference of another model: pack the artifact again.")
    checks, profile = validity(incoming, reference, vocabulary, settings), None
    quality = None
    if not any(check.failed for check in checks):
        profile = profile_records(
            incoming.accepted,
            artifact,
            reference.words,
            settings.metadata,
            has_labels=incoming.has_labels,
            device=device,
            progress=progress,
        )
        checks += compare(reference, profile, settings, seed)
        quality = quality_figures(reference.profile, profile, settings.draws, seed)
    outcome, reasons = decide(checks, settings)
    if incoming.wrong_columns is not None:
        reasons = [incoming.wrong_columns]
    elif not incoming.has_labels and incoming.records:
        reasons.append(
            "No record has labels: the checks of labels and quality are left out, and nothing can be learnt."
        )
    verdict = Verdict(
        outcome,
        reasons,
        BatchSummary(
            id=incoming.id,
            source=incoming.source,
            records=incoming.records,
            accepted=incoming.accepted.num_rows,
            refused=incoming.rejects.num_rows,
            labelled=incoming.labelled,
        ),
        MonitoredModel(artifact.meta["name"], sha256_of(artifact.path / MANIFEST)),
        checks,
        quality,
        unseen_figures(_lists(incoming.accepted), known_uses(incoming.accepted, vocabulary)),
    ).rounded()
    return Examination(verdict, reference.profile, profile)


def profile_records(
    records: pa.Table,
    artifact: Artifact,
    words: npt.NDArray[np.uint64],
    metadata: Sequence[str] = (),
    *,
    has_labels: bool = True,
    device: str = "auto",
    progress: Progress = silent,
) -> Profile:
    """Look at RawRecords that the row rules have passed through the model of an artifact.

    Args:
        records: N records.
        artifact: the model.
        words: sorted hashes of the words of train, as the reference keeps them.
        metadata: columns to keep; those that the records lack are passed over.
        has_labels: False leaves labels and quality out.
        device: as of `pick_device`.
        progress: called with (what, records done, N, {}).

    Raises:
        PredictionError: out of memory, or `device` is not there.
    """
    vocabulary, texts = artifact.vocabulary(), records.column("text").to_pylist()
    ranking, vectors = observe(artifact.ranker(device), Documents(texts), progress)
    return make_profile(
        texts,
        artifact.calibration().calibrated(ranking),
        vectors,
        words,
        label_matrix(_lists(records), vocabulary) if has_labels else None,
        vocabulary.L,
        metadata_columns(records, metadata),
    )


def _lists(records: pa.Table) -> pa.ListArray:
    """The labels of all records in one array."""
    return pa.array(records.column("labels").to_pylist(), COLUMNS["labels"])


def known_uses(accepted: pa.Table, vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """(U,) whether train has the label of each of the U label uses of the accepted records."""
    rows = vocabulary.rows(pc.list_flatten(accepted.column("labels")))
    return (rows >= 0) & (rows < vocabulary.L)


def _record_files(folder: Path, download: DownloadSettings) -> list[Path]:
    visible = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    if is_matrix_layout(folder) or download.format in ("xmc", "pecos"):
        return visible
    files = [f for f in visible if _format_of(f) and f.name.split(".")[0] != readers.LABEL_NAMES]
    if not files:
        raise DataError(f"{folder} has no file of a known format: expected .jsonl, .csv, .tsv or .parquet.")
    return files


def _format_of(file: Path) -> str | None:
    bare = file.with_suffix("") if file.suffix.lower() in OPENERS else file
    return readers.FORMATS.get(bare.suffix.lower())


def _read(path: Path, files: Sequence[Path], download: DownloadSettings) -> pa.Table:
    if path.is_dir() and (is_matrix_layout(path) or download.format in ("xmc", "pecos")):
        return concatenate(list(readers.read(path, download).splits.values()))
    return concatenate([_read_file(file, download) for file in files])


def _read_file(file: Path, download: DownloadSettings) -> pa.Table:
    kind = _format_of(file) if download.format == "auto" else download.format
    if kind not in readers.READERS:
        raise DataError(f"{file} has a name that tells no format: set download.format to {', '.join(readers.READERS)}.")
    read = readers.READERS[kind]
    try:
        return read(file, download)
    except DataError as error:
        _refuse_unreadable(file, kind)
        # Formats with a header refuse a file without labels: any text column stands in for them, and is taken out.
        columns = replace(download.columns, labels=text_columns(download.columns.text)[0])
        try:
            table = read(file, replace(download, columns=columns))
        except DataError:
            raise _WrongColumns(str(error)) from None
        place = table.schema.get_field_index("labels")
        return table.set_column(place, "labels", pa.nulls(table.num_rows, COLUMNS["labels"]))


def _refuse_unreadable(file: Path, kind: str) -> None:
    """Raise a DataError where the bytes themselves cannot be read, rather than what they hold."""
    if kind == "parquet":
        try:
            pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{file} cannot be read as Parquet ({reason}): check the file.") from None
        return
    with opened(file) as content:
        while content.read(1 << 20):
            pass


def _others(table: pa.Table) -> str:
    return ", ".join(name for name in table.column_names if name not in RECORD_SCHEMA.names) or "none"


def _stem(source: str) -> str:
    """The last part of a source's name, without endings and with nothing but letters, digits, dots and dashes."""
    name = public_name(source).rstrip("/").rpartition("/")[2]
    name = re.sub(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|xz|gz|bz2|zip|tar|tgz|txz|tbz2))+$", "", name, flags=re.I)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:80] or "batch"


def _content(accepted: pa.Table) -> bytes:
    rows = zip(*(accepted.column(name).to_pylist() for name in ("id", "text", "labels")), strict=True)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
