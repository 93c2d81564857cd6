"""evaluate: calibration on dev; every metric of the model, of its sources and of baselines on test, once."""

from collections import defaultdict

from cascadexml.bundle import Bundle, beside
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import DataError
from cascadexml.evaluation.calibration import calibration_report
from cascadexml.evaluation.error_analysis import examples_page
from cascadexml.evaluation.evaluated import Evaluated
from cascadexml.evaluation.held_out import HELD_OUT as SPLITS
from cascadexml.evaluation.held_out import Provenance, Seen, save_held_out
from cascadexml.evaluation.plots import draw_evaluation
from cascadexml.evaluation.report import OURS, EvaluationReport
from cascadexml.metrics import differences
from cascadexml.progress import console_progress
from cascadexml.rankers.base import Documents, Ranker, ranker_bundle
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import Ranking
from stages import BLEND, CALIBRATION, CORPUS, HELD_OUT, REPORTS, TOKENS, run

BASELINES = {"neighbours": "tfidf_knn"}
"""Source of the blend → the baseline that it is."""


def main(settings: Settings) -> None:
    """Write calibration.json, the rankings of dev and test, metrics.json, the plots and the page of examples."""
    corpus = Corpus.load(CORPUS)
    if not len(corpus.splits.get("test", ())):
        raise DataError(f"{CORPUS} has no test document: give the source a test split or raise download.split.test.")
    test, Y_train, chosen = corpus.splits["test"], corpus.splits["train"].Y, settings.evaluate
    ranker = ranker_bundle(BLEND)
    rankings, seen = rank(ranker, corpus, settings)
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
        choices=ours.attained(),
    )
    page = examples_page(ours.calibrated("test"), test, corpus.vocabulary, max(chosen.ks), chosen.examples)
    calibration.save(CALIBRATION)
    save_held_out(seen, Provenance(ranker.fingerprint, corpus.fingerprint, chosen.top_k), HELD_OUT)
    with beside(REPORTS / "evaluation") as folder:
        folder.mkdir()
        draw_evaluation(found, ranking, calibration, test.Y, ours.uses, chosen.ks, REPORTS / "training", folder)
    with beside(REPORTS / "examples.html") as new:
        new.write_text(page, encoding="utf-8")
    found.save(REPORTS / "metrics.json")


def rank(ranker: Bundle, corpus: Corpus, settings: Settings) -> tuple[dict[str, dict[str, Ranking]], dict[str, Seen]]:
    """Rankings of test, and of dev where there is one, by the model, by each of its sources and by the baselines.

    Returns:
        Ranker → split → ranking; and by split what the model sees.
    """
    train, K = corpus.splits["train"], settings.evaluate.top_k
    blend, Y = Blend.load(ranker, settings.train.device), corpus.train_labels
    baselines: dict[str, Ranker] = {"popularity": Popularity.fit(Y)}
    if blend.sources.neighbours is None:
        baselines[BASELINES["neighbours"]] = NearestNeighbours.fit(
            Documents(train.texts), Y, settings.blend.neighbours, opening=settings.blend.opening
        )
    found: dict[str, dict[str, Ranking]] = defaultdict(dict)
    seen: dict[str, Seen] = {}
    for split in SPLITS:
        if not len(corpus.splits.get(split, ())):
            continue
        documents = Documents(corpus.splits[split].texts, TokenStore.open(TOKENS / split))
        ranking, vectors, sources = blend.rank_with_sources(documents, K, progress=console_progress())
        seen[split], found[OURS][split] = Seen(ranking, vectors), ranking
        for source, each in sources.items():
            found[BASELINES.get(source, source)][split] = each
        for name, baseline in baselines.items():
            found[name][split] = baseline.rank(documents, K)
    return found, seen


if __name__ == "__main__":
    run(main)
