"""evaluate: calibration on dev; every metric of the model and two baselines on test, once."""

from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import DataError
from cascadexml.evaluation.calibration import Calibration, calibration_report, fit_calibration
from cascadexml.evaluation.error_analysis import examples_page
from cascadexml.evaluation.plots import draw_evaluation
from cascadexml.evaluation.report import OURS, EvaluationReport
from cascadexml.metrics import Report, differences, evaluate
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
    rankings = rank(corpus, settings)
    calibrations = {
        name: fit_calibration(of["dev"], corpus.splits["dev"].Y) if "dev" in of else Calibration()
        for name, of in rankings.items()
    }
    test, Y_train, chosen = corpus.splits["test"], corpus.splits["train"].Y, settings.evaluate

    def report(name: str, split: str) -> Report:
        calibration, Y = calibrations[name], corpus.splits[split].Y
        ranking = calibration.calibrated(rankings[name][split])
        return evaluate(ranking, Y, Y_train, chosen, threshold=calibration.threshold, seed=settings.seed)

    baselines = {name: report(name, "test") for name in rankings if name != OURS}
    ranking, calibration = rankings[OURS]["test"], calibrations[OURS]
    found = EvaluationReport(
        model=report(OURS, "test"),
        baselines=baselines,
        differences={
            name: differences(ranking, rankings[name]["test"], test.Y, Y_train, chosen, seed=settings.seed)
            for name in baselines
        },
        dev=report(OURS, "dev").figures if "dev" in rankings[OURS] else {},
        calibration=calibration_report(calibration, ranking, test.Y),
    )
    page = examples_page(calibration.calibrated(ranking), test, corpus.vocabulary, max(chosen.ks), chosen.examples)
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
