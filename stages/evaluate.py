"""evaluate: calibration on dev; every metric of the model and two baselines on test, once."""

from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import DataError
from cascadexml.evaluation.calibration import calibration_report
from cascadexml.evaluation.error_analysis import examples_page
from cascadexml.evaluation.evaluated import Evaluated
from cascadexml.evaluation.plots import draw_evaluation
from cascadexml.evaluation.report import OURS, EvaluationReport
from cascadexml.metrics import differences
from cascadexml.progress import console_progress
from cascadexml.rankers.base import Documents, Ranker, load_ranker
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import Ranking
from stages import CALIBRATION, CORPUS, MODEL, REPORTS, TOKENS, run


def main(settings: Settings) -> None:
    """Write calibration.json, metrics.json, test_ranking.npz, the plots and the page of examples."""
    corpus = Corpus.load(CORPUS)
    if not len(corpus.splits.get("test", ())):
        raise DataError(f"{CORPUS} has no test document: give the source a test split or raise download.split.test.")
    test, Y_train, chosen = corpus.splits["test"], corpus.splits["train"].Y, settings.evaluate
    rankings = rank(corpus, settings)
    evaluated = {name: Evaluated(of, corpus, chosen, settings.seed) for name, of in rankings.items()}
    ours = evaluated[OURS]
    baselines = {name: each.report("test") for name, each in evaluated.items() if each is not ours}
    ranking, calibration = rankings[OURS]["test"], ours.calibration
    found = EvaluationReport(
        model=ours.report("test"),
        baselines=baselines,
        differences={
            name: differences(ranking, rankings[name]["test"], test.Y, Y_train, chosen, seed=settings.seed)
            for name in baselines
        },
        dev=ours.report("dev").figures if "dev" in rankings[OURS] else {},
        calibration=calibration_report(calibration, ranking, test.Y),
    )
    page = examples_page(ours.calibrated("test"), test, corpus.vocabulary, max(chosen.ks), chosen.examples)
    calibration.save(CALIBRATION)
    with beside(REPORTS / "evaluation") as folder:
        folder.mkdir()
        draw_evaluation(found.rankers, ranking, calibration, test.Y, chosen.ks, REPORTS / "training", folder)
    with beside(REPORTS / "test_ranking.npz") as new:
        ranking.save(new)
    with beside(REPORTS / "examples.html") as new:
        new.write_text(page, encoding="utf-8")
    found.save(REPORTS / "metrics.json")


def rank(corpus: Corpus, settings: Settings) -> dict[str, dict[str, Ranking]]:
    """Rankings of test, and of dev where there is one, by the model and the baselines."""
    train, L = corpus.splits["train"], corpus.vocabulary.L
    rankers: dict[str, Ranker] = {
        OURS: load_ranker(MODEL, settings.train.device),
        "tfidf_knn": NearestNeighbours.fit(
            Documents(train.texts), train.Y[:, :L].tocsr(), settings.evaluate.neighbours
        ),
        "popularity": Popularity.fit(train.Y[:, :L].tocsr()),
    }
    documents = {
        name: Documents(corpus.splits[name].texts, TokenStore.open(TOKENS / name))
        for name in ("dev", "test")
        if len(corpus.splits.get(name, ()))
    }
    progress, K = console_progress(), settings.evaluate.top_k
    return {
        name: {split: ranker.rank(those, K, progress=progress) for split, those in documents.items()}
        for name, ranker in rankers.items()
    }


if __name__ == "__main__":
    run(main)
