"""judgement: the champion and a challenger rank the corpus's test split; may the challenger take its place?"""

import argparse
from pathlib import Path

from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.candidates import judge_candidates, save
from cascadexml.progress import console_progress
from cascadexml.registry.opening import open_model
from stages import ARTIFACT, CORPUS, REPORTS, run


def main(settings: Settings, champion: str | None, challenger: str, out: Path) -> None:
    """Write judgement.json and judgement.md into `out`."""
    models = (None if champion is None else open_model(champion), open_model(challenger))
    save(judge_candidates(*models, Corpus.load(CORPUS), settings, console_progress()), out)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stages.judgement", description=__doc__)
    parser.add_argument("champion", nargs="?", metavar="CHAMPION", help="its artifact; left out: none yet")
    parser.add_argument("--challenger", default=str(ARTIFACT), metavar="FOLDER", help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=REPORTS / "judgement", metavar="FOLDER", help="default: %(default)s"
    )
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    run(lambda settings: main(settings, given.champion, given.challenger, given.out))
