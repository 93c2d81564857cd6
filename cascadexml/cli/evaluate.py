"""`cascadexml evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cascadexml.bundle import MANIFEST
from cascadexml.checked_json import number, text_of, whole
from cascadexml.cli.options import ARTIFACT, AS_JSON, VERBOSE, examples, print_json, with_model
from cascadexml.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from cascadexml.evaluation.records import RecordsReport

MOST = {"top_k": 10_000, "bootstrap_samples": 100_000, "propensity_a": 100.0, "propensity_b": 1e6}
"""What an artifact may ask for of each record: more would take memory or time without end."""


@click.command(
    epilog=examples(
        "cascadexml evaluate data/models/artifact --data data/sample/test.jsonl.xz",
        "cascadexml evaluate data/models/artifact --data records.parquet --json > figures.json",
    ),
    short_help="Rank the labels of records whose labels are known; print how right that is.",
)
@ARTIFACT
@click.option(
    "--data",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Records with labels, in any source format.",
)
@AS_JSON
@with_model
@VERBOSE
def evaluate(path: str, data: Path, as_json: bool, batch_size: int, device: str) -> None:
    """Rank the labels of records whose labels are known and print how right the ranking is.

    Precision, recall, F1, nDCG and the propensity-scored PSP and PSnDCG at k, in percent, with bootstrap 95 %
    intervals. A record's label that the model does not know counts against recall.

    PATH is the artifact's folder, or s3://bucket/prefix/name@champion.
    """
    from cascadexml.config import ColumnSettings, DownloadSettings, EvaluateSettings, read_section
    from cascadexml.data.labelled import read_labelled
    from cascadexml.evaluation.records import evaluate_on_records, matrix_with_uses
    from cascadexml.progress import console_progress
    from cascadexml.registry import open_model

    artifact = open_model(path)
    vocabulary, where = artifact.vocabulary(), f"{artifact.path}/{MANIFEST}"
    download = artifact.section("download")
    try:
        columns = read_section(ColumnSettings, download.get("columns", {}), where, "download.columns.")
        separator = text_of({"label_separator": ";", **download}, "label_separator")
        settings = read_section(EvaluateSettings, artifact.section("evaluate"), where, "evaluate.")
        for name, most in MOST.items():
            number(vars(settings), name, 0, most)
    except (ConfigError, ValueError) as error:
        raise FormatError(f"{where} holds settings that cannot be used ({error}): pack it again.") from None
    records = read_labelled(data, DownloadSettings(source=str(data), columns=columns, label_separator=separator))
    try:
        N = whole(artifact.meta["documents"], "train")
        Y_train = matrix_with_uses(artifact.label_counts(), N, len(vocabulary))
    except ValueError as error:
        raise FormatError(
            f"{artifact.path}/label_counts.npy does not fit its model ({error}): pack it again."
        ) from None
    found = evaluate_on_records(
        artifact.ranker(device, batch_size),
        artifact.calibration(),
        vocabulary,
        Y_train,
        records,
        settings,
        console_progress(),
    )
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(_table(found))


def _table(found: "RecordsReport") -> str:
    """Figures in percent, one line a metric and one for its intervals."""
    figures, intervals = found.report.figures, found.report.intervals
    ks = [name.partition("@")[2] for name in figures if name.startswith("P@")]
    lines = [" " * 10 + "".join(f"{f'@{k}':>14}" for k in ks)]
    for family in dict.fromkeys(name.partition("@")[0] for name in figures if "@" in name):
        names = [f"{family}@{k}" for k in ks]
        label, indent = f"{family:10}", " " * 10
        if len(family) > len(indent):
            lines.append(family)
            label = indent
        lines.append(label + "".join(f"{100 * figures[name]:14.2f}" for name in names))
        if names[0] in intervals:
            spans = (f"{100 * intervals[name][0]:.2f}-{100 * intervals[name][1]:.2f}" for name in names)
            lines.append(indent + "".join(f"{span:>14}" for span in spans))
    at_threshold = ", ".join(f"{name} {100 * value:.2f}" for name, value in figures.items() if "@" not in name)
    lines.append(f"at the threshold {found.threshold:.4f} chosen on dev: {at_threshold}")
    lines.append(
        f"{found.evaluated:,} documents ({found.left_out:,} left out), {found.known:,} labels known, "
        f"{found.unknown:,} of the documents' labels unknown"
    )
    return "\n".join(lines)
