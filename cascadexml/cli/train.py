"""`cascadexml train`."""

from pathlib import Path
from typing import Any

import click

from cascadexml.cli.options import VERBOSE, examples
from cascadexml.errors import ConfigError

SHOWN = ("P@1", "nDCG@5", "micro_F1")


@click.command(
    epilog=examples(
        "cascadexml train data/sample --out my-model",
        "cascadexml train records.csv --out my-model --set download.columns.text=title+abstract --set train.epochs=5",
        "cascadexml train my-data --out my-model --set encoder.name=bert-base-uncased --device cuda",
    ),
    short_help="Train a model on records with labels; write its artifact.",
)
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="ARTIFACT",
    type=click.Path(path_type=Path),
    help="The artifact's folder; one that lies there is replaced.",
)
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting as in params.yaml, such as train.epochs=5; as often as you like.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Sets train.device.")
@VERBOSE
def train(data: Path, out: Path, values: tuple[str, ...], device: str | None) -> None:
    """Train a model on records with labels and write its artifact.

    DATA is a file or folder in any source format: JSON lines, CSV, TSV, Parquet, the Extreme Classification
    Repository's or PECOS's. Splits that it lacks are made out of train, as download.split says. Records that cannot be
    trained on go to ARTIFACT.rejects.parquet with reasons.

    Stopped at any moment, the same command goes on from the last checkpoint, in ARTIFACT.checkpoints.

    The pipeline does more: it holds the records to expectations, measures baselines, keeps what later records are
    compared with, and can start from an older model.
    """
    from cascadexml.estimator.settings import default_settings, with_values
    from cascadexml.estimator.source import train_on_source
    from cascadexml.progress import console_progress

    chosen = _values([*values, *([f"train.device={device}"] if device else [])])
    report, refused = train_on_source(data, with_values(default_settings(str(data)), chosen), out, console_progress())
    if refused:
        click.echo(f"{refused} records were refused: {out}.rejects.parquet says why", err=True)
    for split, figures in (("dev", report.dev), ("test", report.model.figures)):
        for name in SHOWN:
            if name in figures:
                click.echo(f"{split} {name}: {100 * figures[name]:.2f} %")
    click.echo(f"{out}: a model that cascadexml predict, evaluate and info take")


def _values(settings: list[str]) -> dict[str, Any]:
    if not settings:
        return {}
    try:
        from cascadexml.config.overrides import values_of
    except ModuleNotFoundError as error:
        raise ConfigError(f'--set and --device need {error.name}: pip install "cascadexml[train]".') from None
    return values_of(settings)
