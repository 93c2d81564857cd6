"""`cascadexml export`."""

from pathlib import Path

import click

from cascadexml.cli.options import VERBOSE, examples


@click.command(
    epilog=examples(
        "cascadexml export data/models/artifact data/models/onnx",
        "cascadexml export data/models/artifact data/models/int8 --int8",
        "cascadexml export s3://cascadexml/models/tib-subjects@champion int8 --int8",
    ),
    short_help="Write a model with its encoder in ONNX, in fp32 or int8.",
)
@click.argument("model", metavar="MODEL")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx"]),
    default="onnx",
    show_default=True,
    help="What the encoder is written as.",
)
@click.option("--int8", is_flag=True, help="Let its linear layers multiply whole numbers of 8 bits: faster, rounded.")
@VERBOSE
def export(model: str, out: Path, form: str, int8: bool) -> None:
    """Write a model with its encoder in ONNX, which ONNX Runtime runs on the CPU.

    MODEL is an artifact's folder, or s3://bucket/prefix/name@champion. OUT is the new artifact's folder; one that lies
    there is replaced. It predicts, is evaluated, judged and published like any other, and cannot be trained on.

    It needs pip install "cascadexml[onnx]", and so does whoever loads what it writes.
    """
    from cascadexml.artifact.exporting import export_artifact
    from cascadexml.progress import console_progress
    from cascadexml.registry import open_model

    export_artifact(open_model(model, console_progress()), out, "int8" if int8 else "fp32")
    click.echo(f"{out}: {form}, {'int8' if int8 else 'fp32'}, made from {model}")
