"""evaluate: calibration on dev; every metric of the model, of its sources and of baselines on test, once."""

from collections import defaultdict

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
from cascadexml.rankers.base import Documents, Ranker
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import Ranking
from stages import BLEND, CALIBRATION, CORPUS, REPORTS, TOKENS, run

BASELINES = {"neighbours": "tfidf_knn"}
"""Source of the blend → the baseline that it is."""


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
    """Rankings of test, and of dev where there is one, by the model, by each of its sources and by the baselines."""
    train, L, K = corpus.splits["train"], corpus.vocabulary.L, settings.evaluate.top_k
    blend, Y = Blend.load(BLEND, settings.train.device), train.Y[:, :L].tocsr()
    baselines: dict[str, Ranker] = {"popularity": Popularity.fit(Y)}
    if blend.sources.neighbours is None:
        baselines[BASELINES["neighbours"]] = NearestNeighbours.fit(Documents(train.texts), Y, settings.blend.neighbours)
    found: dict[str, dict[str, Ranking]] = defaultdict(dict)
    for split in ("dev", "test"):
        if not len(corpus.splits.get(split, ())):
            continue
        documents = Documents(corpus.splits[split].texts, TokenStore.open(TOKENS / split))
        found[OURS][split], _, sources = blend.rank_with_sources(documents, K, progress=console_progress())
        for source, ranking in sources.items():
            found[BASELINES.get(source, source)][split] = ranking
        for name, ranker in baselines.items():
            found[name][split] = ranker.rank(documents, K)
    return found


if __name__ == "__main__":
    run(main)
