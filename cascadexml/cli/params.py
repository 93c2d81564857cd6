"""`cascadexml params …`: params.yaml written and checked, and its schema."""

from pathlib import Path

import click

from cascadexml.cli.options import examples, print_json
from cascadexml.errors import ConfigError

FILE = click.option(
    "--file",
    "params",
    type=click.Path(path_type=Path),
    default=Path("params.yaml"),
    metavar="FILE",
    help="The pipeline's settings (default params.yaml).",
)


@click.group(epilog="Each command has its own --help, with examples.")
def params() -> None:
    """Set and check the pipeline's settings in params.yaml.

    Nothing is written unless the whole file is right afterwards. Comments and order stay.
    """


@params.command(
    "set",
    epilog=examples(
        "cascadexml params set train.epochs=2 cluster.leaf_size=16",
        "cascadexml params set --source my-data",
        "cascadexml params set --preset params/wiki10-31k.yaml --source wiki10-31k train.device=cuda",
    ),
)
@click.argument("settings", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--preset",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Laid over params.yaml first, such as those in params/.",
)
@click.option("--source", metavar="PATH_OR_URL", help="Sets download.source.")
@FILE
def set_(settings: tuple[str, ...], preset: Path | None, source: str | None, params: Path) -> None:
    """Write a preset, a source and single settings into params.yaml, in this order."""
    try:
        from cascadexml.config.overrides import apply
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'{params} cannot be written without {error.name}: pip install "cascadexml[pipeline]".'
        ) from None
    apply(params, settings, preset, source)


@params.command(epilog=examples("cascadexml params check", "cascadexml params check --file other.yaml"))
@FILE
def check(params: Path) -> None:
    """Check all of params.yaml: unknown keys, types, ranges, and values that do not go together."""
    from cascadexml.config import load_settings

    load_settings(params)
    click.echo(f"{params}: ok")


@params.command(epilog=examples("cascadexml params schema > params.schema.json"))
def schema() -> None:
    """Print the JSON schema of params.yaml, by which editors complete and check it."""
    from cascadexml.config.schema import json_schema

    print_json(json_schema())
