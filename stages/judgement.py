"""judgement: the champion and a challenger rank the corpus's test split; may the challenger take its place?"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from cascadexml.artifact.artifact import Artifact
from cascadexml.bundle import MANIFEST, beside, sha256_of
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError
from cascadexml.evaluation.judge import judge, slices_of, translate
from cascadexml.evaluation.judgement import ModelIdentity, render
from cascadexml.progress import console_progress
from cascadexml.ranking import Ranking
from cascadexml.registry.opening import open_model
from cascadexml.serving.predictor import Predictor
from stages import ARTIFACT, CORPUS, REPORTS, run


def main(settings: Settings, champion: str | None, challenger: str, out: Path) -> None:
    """Write judgement.json and judgement.md into `out`."""
    corpus = Corpus.load(CORPUS)
    if not len(corpus.splits.get("test", ())):
        raise DataError(f"{CORPUS} has no test document: give the source a test split or raise download.split.test.")
    test = corpus.splits["test"]
    artifacts = {"challenger": open_model(challenger)}
    if champion is not None:
        artifacts["champion"] = open_model(champion)
    rankings = {role: rank(artifact, corpus, settings) for role, artifact in artifacts.items()}
    judgement = judge(
        rankings.get("champion"),
        rankings["challenger"],
        test.Y,
        corpus.splits["train"].Y,
        slices_of(test.metadata, settings.judge.slices),
        settings.judge,
        settings.evaluate,
        settings.seed,
    )
    told = [note for role, artifact in artifacts.items() for note in notes(role, artifact, corpus)]
    models = {role: identity(each) for role, each in artifacts.items()}
    judgement = replace(judgement, notes=(*judgement.notes, *told), models=models)
    with beside(out / "judgement.md") as new:
        new.write_text(render(judgement), encoding="utf-8")
    with beside(out / "judgement.json") as new:
        new.write_text(json.dumps(judgement.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rank(artifact: Artifact, corpus: Corpus, settings: Settings) -> Ranking:
    """The model's ranking of the test split, in rows of the corpus's vocabulary."""
    predictor = Predictor.from_artifact(artifact, settings.train.device)
    ranking = predictor.rank(corpus.splits["test"].texts, settings.evaluate.top_k, console_progress())
    return translate(ranking, predictor.vocabulary, corpus.vocabulary)


def identity(artifact: Artifact) -> ModelIdentity:
    """Which model was judged."""
    meta = artifact.meta
    return ModelIdentity(
        meta["name"], sha256_of(artifact.path / MANIFEST), meta.get("data_fingerprint"), meta["labels"]
    )


def notes(role: str, artifact: Artifact, corpus: Corpus) -> list[str]:
    """What a reader must know of this model: labels that it lacks, and other data than the corpus's."""
    known = set((vocabulary := artifact.vocabulary()).ids[: vocabulary.L])
    ranked = corpus.vocabulary.ids[: corpus.vocabulary.L]
    told = []
    if lacking := sum(label not in known for label in ranked):
        told.append(
            f"The {role} does not know {lacking:,} of the {len(ranked):,} labels of train: they count as missed."
        )
    if artifact.meta.get("data_fingerprint") != corpus.fingerprint:
        told.append(
            f"The {role} was trained on other data than this corpus: the figures are fair only if no test record was "
            "in its training data, as holding records out by a hash of their id ensures."
        )
    return told


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
