"""`cascadexml judge`."""

from pathlib import Path

import click

from cascadexml.cli.options import VERBOSE, examples

DATA = Path("data")
FOLDER = click.Path(path_type=Path)


@click.command(
    epilog=examples(
        "cascadexml judge s3://cascadexml/models/tib-subjects@champion",
        "cascadexml judge old/artifact --challenger new/artifact --corpus data/interim/corpus --out judgement",
    ),
    short_help="Say whether a challenger may take the champion's place.",
)
@click.argument("champion", metavar="[CHAMPION]", required=False)
@click.option(
    "--challenger",
    metavar="PLACE",
    default=str(DATA / "models" / "artifact"),
    show_default=True,
    help="What may take its place: a folder, or a model in a registry.",
)
@click.option(
    "--corpus",
    metavar="FOLDER",
    type=FOLDER,
    default=DATA / "interim" / "corpus",
    show_default=True,
    help="Whose test records both rank, as the stage validate leaves it.",
)
@click.option(
    "--held-out",
    metavar="FOLDER",
    type=FOLDER,
    default=DATA / "interim" / "held_out",
    show_default=True,
    help="What the stage evaluate left: a model whose ranking of these records lies there does not rank again.",
)
@click.option(
    "--params",
    metavar="FILE",
    type=FOLDER,
    default=Path("params.yaml"),
    show_default=True,
    help="The rule: the sections judge and evaluate, seed, and train.device.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=FOLDER,
    default=DATA / "reports" / "judgement",
    show_default=True,
    help="Where judgement.json and judgement.md go.",
)
@VERBOSE
def judge(champion: str | None, challenger: str, corpus: Path, held_out: Path, params: Path, out: Path) -> None:
    """Let champion and challenger rank the same held-out records and say whether the challenger may take over.

    CHAMPION is the artifact in use: its folder, or s3://bucket/prefix/name@champion. Without one the challenger is the
    first. The exit code is 0 whatever the decision, which stands in judgement.json; nothing is promoted.
    """
    from cascadexml.config import load_settings
    from cascadexml.data.corpus import Corpus
    from cascadexml.evaluation.candidates import judge_candidates, save
    from cascadexml.progress import console_progress
    from cascadexml.registry import open_model

    settings, progress = load_settings(params), console_progress()
    models = (None if champion is None else open_model(champion, progress), open_model(challenger, progress))
    known = held_out if held_out.is_dir() else None
    judgement = judge_candidates(*models, Corpus.load(corpus), settings, progress, known)
    save(judgement, out)
    for reason in judgement.reasons:
        click.echo(reason)
    click.echo(f"{'promote' if judgement.promote else 'do not promote'}: {out / 'judgement.md'} shows the figures")
