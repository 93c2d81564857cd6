"""The gate: decisions against a bootstrap one document at a time, its error rate, and what each guard refuses."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cascadexml.config import EvaluateSettings, JudgeSettings, settings_from
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError
from cascadexml.evaluation.judge import judge, slices_of, translate
from cascadexml.evaluation.judgement import Judgement, render
from cascadexml.ranking import NO_LABEL, Ranking
from tests.support.params import params_yaml

EVALUATE = EvaluateSettings(ks=[1, 5], top_k=20, bootstrap_samples=200, torso=12, head=40)
JUDGE = JudgeSettings(guards=[], slices=[], min_slice=20)
L = 30


def truths(rng, N, most=4):
    """(N, L) labels, low columns used far more often than high ones."""
    weights = 1 / np.arange(1, L + 1)
    Y = np.zeros((N, L), np.float32)
    for n in range(N):
        Y[n, rng.choice(L, rng.integers(1, most + 1), replace=False, p=weights / weights.sum())] = 1
    return sparse.csr_matrix(Y)


def ranker(rng, Y, skill):
    """The more skill, (N,) or (L,) or a number, the higher true labels stand."""
    return Ranking.from_scores(rng.random(Y.shape) + np.asarray(Y.todense()) * skill, 20)


def decide(champion, challenger, Y, slices=None, seed=0, evaluate=EVALUATE, Y_train=None, **knobs):
    knobs = replace(JUDGE, **knobs)
    return judge(champion, challenger, Y, Y if Y_train is None else Y_train, slices or {}, knobs, evaluate, seed)


@pytest.fixture(scope="module")
def Y():  # noqa: N802
    return truths(np.random.default_rng(0), 300)


def plain_ndcg(ranking, Y, n, k):
    truth = set(Y[[n]].indices.tolist())
    gain = sum(1 / math.log2(i + 2) for i, label in enumerate(ranking.labels[n].tolist()[:k]) if label in truth)
    return gain / sum(1 / math.log2(i + 2) for i in range(min(k, len(truth))))


def plain_tail_recall(ranking, Y, Y_train, n, k, torso):
    uses = [Y_train[:, [label]].nnz for label in range(Y.shape[1])]
    tail = {label for label in Y[[n]].indices.tolist() if 0 < uses[label] < torso}
    return len(tail & set(ranking.labels[n].tolist()[:k])), len(tail)


def test_every_number_equals_that_of_a_bootstrap_one_document_at_a_time():
    rng = np.random.default_rng(3)
    N, samples = 40, EVALUATE.bootstrap_samples
    Y, Y_train = truths(rng, N), truths(rng, 60)
    champion, challenger = ranker(rng, Y, 0.3), ranker(rng, Y, 0.5)
    mask = np.arange(N) % 3 == 0
    found = decide(champion, challenger, Y, {"third": mask}, seed=7, Y_train=Y_train, guards=["tail:R@5"], min_slice=10)

    ndcg = {name: [plain_ndcg(r, Y, n, 5) for n in range(N)] for name, r in (("a", champion), ("b", challenger))}
    tail = {
        name: [plain_tail_recall(r, Y, Y_train, n, 5, EVALUATE.torso) for n in range(N)]
        for name, r in (("a", champion), ("b", challenger))
    }
    assert sum(possible for _, possible in tail["a"]) > 10

    def mean(documents):
        return sum(ndcg["b"][n] - ndcg["a"][n] for n in documents) / len(documents)

    def recall(documents):
        possible = sum(tail["a"][n][1] for n in documents)
        return sum(tail["b"][n][0] - tail["a"][n][0] for n in documents) / possible if possible else 0.0

    def in_slice(documents):
        return mean([n for n in documents if mask[n]])

    draws = np.random.default_rng(7).integers(0, N, (samples, N)).tolist()
    for comparison, figure in ((found.difference, mean), (found.guards[0], recall), (found.slices[0], in_slice)):
        assert comparison.difference == pytest.approx(figure(range(N)), abs=1e-12)
        resampled = [figure(draw) for draw in draws]
        low, high = np.percentile(resampled, [2.5, 97.5])
        assert (comparison.low, comparison.high) == pytest.approx((low, high), abs=1e-9)
    assert found.lower_bound == pytest.approx(np.percentile([mean(draw) for draw in draws], 5), abs=1e-9)
    assert found.champion.figures["nDCG@5"] == pytest.approx(sum(ndcg["a"]) / N)
    low, high = np.percentile([sum(ndcg["b"][n] for n in draw) / N for draw in draws], [2.5, 97.5])
    assert found.challenger.intervals["nDCG@5"] == pytest.approx([low, high])


@pytest.mark.parametrize("skill", [0.0, 0.4, 5.0])
def test_equal_rankings_are_never_promoted(Y, skill):
    one = ranker(np.random.default_rng(1), Y, skill)
    found = decide(one, Ranking(one.labels.copy(), one.scores * 2), Y, confidence=0.5, guards=["PSP@5", "tail:R@5"])
    assert not found.promote
    assert (found.difference.difference, found.lower_bound) == (0, 0)
    assert not any(guard.failed for guard in found.guards)


def test_a_clearly_better_challenger_is_promoted_and_a_worse_one_is_not(Y):
    rng = np.random.default_rng(2)
    weak, strong = ranker(rng, Y, 0.2), ranker(rng, Y, 0.7)
    mask = {"even": np.arange(300) % 2 == 0}
    up = decide(weak, strong, Y, mask, guards=["PSP@5", "tail:R@5"])
    assert up.promote
    assert up.lower_bound > 0
    down = decide(strong, weak, Y, mask, guards=["PSP@5", "tail:R@5"])
    assert not down.promote
    assert [guard.failed for guard in (*down.guards, *down.slices)] == [True] * 3
    assert down.difference.difference == pytest.approx(-up.difference.difference)
    assert (down.champion, down.challenger) == (up.challenger, up.champion)


def test_a_challenger_that_is_no_better_is_promoted_as_seldom_as_the_confidence_says():
    rng = np.random.default_rng(4)
    promoted = {0.95: 0, 0.8: 0}
    few = replace(EVALUATE, ks=[5])
    for trial in range(120):
        Y = truths(rng, 80)
        champion, challenger = ranker(rng, Y, 0.4), ranker(rng, Y, 0.4)
        for confidence in promoted:
            promoted[confidence] += decide(
                champion, challenger, Y, seed=trial, evaluate=few, confidence=confidence
            ).promote
    # Binomial: three standard deviations around 120 * (1 - confidence).
    assert 1 <= promoted[0.95] <= 6 + 3 * math.sqrt(5.7)
    assert 24 - 3 * math.sqrt(19.2) <= promoted[0.8] <= 24 + 3 * math.sqrt(19.2)


def test_the_margin_must_be_passed_by_the_lower_bound(Y):
    rng = np.random.default_rng(5)
    champion, challenger = ranker(rng, Y, 0.3), ranker(rng, Y, 0.5)
    lower = decide(champion, challenger, Y).lower_bound
    assert 0 < lower < 0.2
    assert decide(champion, challenger, Y, margin=lower - 1e-6).promote
    refused = decide(champion, challenger, Y, margin=lower)
    assert not refused.promote
    assert refused.difference.difference > lower
    assert "does not lie above the margin" in refused.reasons[0]


def test_more_confidence_asks_for_more(Y):
    rng = np.random.default_rng(6)
    champion, challenger = ranker(rng, Y, 0.4), ranker(rng, Y, 0.44)
    bounds = [decide(champion, challenger, Y, confidence=c).lower_bound for c in (0.5, 0.8, 0.95, 0.999)]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 4


def test_a_slice_that_falls_is_named_and_refuses(Y):
    rng = np.random.default_rng(8)
    reports = np.arange(300) < 40
    champion = ranker(rng, Y, 0.4)
    challenger = ranker(rng, Y, np.where(reports, 0.0, 0.9)[:, None])
    slices = {"type=Report": reports, "type=Book": ~reports}
    found = decide(champion, challenger, Y, slices)
    assert found.lower_bound > 0
    assert not found.promote
    assert [part.name for part in found.slices if part.failed] == ["type=Report"]
    assert any("slice type=Report falls by 0." in reason for reason in found.reasons)
    # Without the slice, or where it is too small to be looked at, the same challenger passes.
    assert decide(champion, challenger, Y).promote
    assert not decide(champion, challenger, Y, slices, min_slice=40).promote
    small = decide(champion, challenger, Y, slices, min_slice=41)
    assert small.promote
    assert small.left_out == {"type=Report": 40}
    assert [part.name for part in small.slices] == ["type=Book"]


def test_a_tail_that_falls_refuses(Y):
    rng = np.random.default_rng(9)
    uses = np.bincount(Y.indices, minlength=L)
    rare = uses < 12
    champion, challenger = ranker(rng, Y, 0.4), ranker(rng, Y, np.where(rare, 0.0, 0.9)[None])
    found = decide(champion, challenger, Y, guards=["tail:R@5", "R@5"])
    assert found.lower_bound > 0
    assert not found.promote
    assert [guard.name for guard in found.guards if guard.failed] == ["tail:R@5"]
    assert decide(champion, challenger, Y, guards=["R@5"]).promote


def test_a_small_but_sure_fall_refuses_and_a_small_unsure_one_does_not():
    N = 2000
    Y = sparse.csr_matrix(np.eye(2, 6, dtype=np.float32)[np.arange(N) % 2])
    right, wrong = [0, 1, 2], [3, 4, 5]
    labels = np.array([right if n % 2 == 0 else [1, 0, 2] for n in range(N)], np.int32)
    evaluate = replace(EVALUATE, ks=[1], top_k=3)

    def without(documents):
        worse = labels.copy()
        worse[documents] = wrong
        return Ranking(worse, np.tile(np.float32([3, 2, 1]), (N, 1)))

    def guard(lost_by_champion, lost_by_challenger):
        champion, challenger = without(lost_by_champion), without(lost_by_challenger)
        return decide(champion, challenger, Y, evaluate=evaluate, metric="P@1", guards=["nDCG@1"]).guards[0]

    sure = guard([], range(10))
    assert sure.difference == pytest.approx(-0.005)
    assert sure.failed
    assert "lies wholly below 0" in sure.why
    assert "more than" not in sure.why
    unsure = guard(range(100, 190), range(100))
    assert unsure.difference == pytest.approx(-0.005)
    assert not unsure.failed
    assert guard([], range(400)).why.startswith("by 0.2000: more than the 0.01 allowed, and its 95 % interval, -0.2")


def test_a_large_fall_refuses_even_where_it_may_be_chance():
    rng = np.random.default_rng(11)
    Y = truths(rng, 60)
    champion, challenger = ranker(rng, Y, 0.45), ranker(rng, Y, 0.4)
    for seed in range(50):
        challenger = ranker(np.random.default_rng(seed), Y, 0.4)
        guard = decide(champion, challenger, Y, guards=["P@1"]).guards[0]
        if guard.difference < -0.01 and guard.high > 0:
            assert "more than the 0.01 allowed" in guard.why
            assert "interval" not in guard.why
            return
    raise AssertionError("no such pair was drawn")


def test_without_a_champion_the_challenger_is_promoted(Y):
    found = decide(None, ranker(np.random.default_rng(0), Y, 0.1), Y, guards=["tail:R@5"])
    assert found.promote
    assert "no champion yet" in found.reasons[0]
    assert found.champion is None
    assert 0 < found.challenger.figures["nDCG@5"] < 1
    assert "no champion yet" in render(found)


def test_no_document_is_refused(Y):
    none = Ranking(np.zeros((0, 5), np.int32), np.zeros((0, 5), np.float32))
    with pytest.raises(DataError, match="no held-out document"):
        decide(none, none, Y[:0], Y_train=Y)


def test_a_guard_without_anything_to_measure_is_told(Y):
    rng = np.random.default_rng(1)
    found = decide(ranker(rng, Y, 0.2), ranker(rng, Y, 0.9), Y, guards=["unseen:R@5"])
    assert found.promote
    assert found.notes == ("unseen:R@5 has nothing to measure: no document has a label of that kind.",)


def test_equal_seeds_give_equal_judgements_and_the_seed_matters(Y):
    rng = np.random.default_rng(12)
    pair = ranker(rng, Y, 0.4), ranker(rng, Y, 0.45)
    assert decide(*pair, Y, seed=1).to_json() == decide(*pair, Y, seed=1).to_json()
    one, other = decide(*pair, Y, seed=1), decide(*pair, Y, seed=2)
    assert one.lower_bound != other.lower_bound
    assert one.difference.difference == other.difference.difference


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), skill=st.floats(0, 1), margin=st.sampled_from([0.0, 0.02]))
def test_promotion_means_all_that_it_promises(seed, skill, margin):
    rng = np.random.default_rng(seed)
    Y = truths(rng, 60)
    mask = rng.random(60) < 0.5
    found = decide(
        ranker(rng, Y, 0.3),
        ranker(rng, Y, skill),
        Y,
        {"half": mask, "rest": ~mask},
        margin=margin,
        guards=["PSP@5", "tail:R@5"],
        min_slice=1,
    )
    checks = [*found.guards, *found.slices]
    for check in checks:
        assert check.failed == (check.difference < -JUDGE.max_fall or check.high < 0)
    assert found.promote == (found.lower_bound > margin and not any(check.failed for check in checks))
    assert len(found.reasons) == 1 + max(1, sum(check.failed for check in checks))
    assert Judgement.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert found.difference.low <= found.lower_bound <= found.difference.high


def random_vocabulary(rng, ids):
    ids = tuple(rng.permutation(ids).tolist())
    return Vocabulary(ids, (None,) * len(ids), len(ids))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_translated_ranking_scores_as_in_its_own_rows(seed):
    """Columns may be called and ordered as one likes: translation and truth agree by id alone."""
    rng = np.random.default_rng(seed)
    Y = truths(rng, 25)
    ids = [f"label {row}" for row in range(L)]
    corpus, model = Vocabulary(tuple(ids), (None,) * L, L), random_vocabulary(rng, ids)
    native = ranker(rng, Y, 0.5)
    order = [model.row(label) for label in ids]
    foreign = Ranking(np.array(order, np.int32)[native.labels], native.scores)
    assert translate(foreign, model, corpus).labels.tolist() == native.labels.tolist()
    direct, turned = (decide(None, each, Y).challenger for each in (native, translate(foreign, model, corpus)))
    assert direct == turned


def test_labels_that_only_one_vocabulary_has_count_as_wrong_and_as_missed():
    corpus = Vocabulary(("a", "b", "new"), (None,) * 3, 3)
    model = Vocabulary(("gone", "b", "a"), (None,) * 3, 3)
    ranking = Ranking(np.array([[0, 2, NO_LABEL], [1, 2, 0]], np.int32), np.float32([[3, 2, -np.inf], [3, 2, 1]]))
    found = translate(ranking, model, corpus)
    assert found.labels.tolist() == [[NO_LABEL, 0, NO_LABEL], [1, 0, NO_LABEL]]
    Y = sparse.csr_matrix(np.float32([[1, 0, 0], [0, 1, 1]]))
    figures = decide(None, found, Y, evaluate=replace(EVALUATE, ks=[1, 2], top_k=3)).challenger.figures
    # The unknown first suggestion keeps its place: "a" stays second. "new" cannot be found.
    assert figures["P@1"] == 0.5
    assert figures["P@2"] == 0.5
    assert figures["R@2"] == (1 + 0.5) / 2


def test_slices_are_the_values_of_each_column():
    metadata = pa.table({"type": ["Book", None, "Report", "Book"], "lang": ["en"] * 4, "year": [1, 2, 2, 2]})
    found = slices_of(metadata, ["type", "batch", "lang", "year"])
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "type=(none)": [False, True, False, False],
        "type=Book": [True, False, False, True],
        "type=Report": [False, False, True, False],
        "year=1": [True, False, False, False],
        "year=2": [False, True, True, True],
    }


def test_slices_of_a_column_in_several_chunks():
    chunks = pa.chunked_array([["x", "y"], ["y"], ["z", "x"]])
    found = slices_of(pa.table({"c": chunks}), ["c"])
    assert [np.flatnonzero(found[f"c={value}"]).tolist() for value in "xyz"] == [[0, 4], [1, 2], [3]]


def test_columns_that_make_no_slices_are_refused():
    with pytest.raises(ConfigError, match="'title', which has 1,001 values"):
        slices_of(pa.table({"title": [str(n) for n in range(1001)]}), ["title"])
    with pytest.raises(ConfigError, match="'tags', which holds lists"):
        slices_of(pa.table({"tags": [["a"], ["b"]]}), ["tags"])


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"metric": "nDGC@5"}, "judge.metric: there is no metric 'nDGC@5'"),
        ({"metric": "tail:R@5"}, "judge.metric is 'tail:R@5', expected a metric of all labels"),
        ({"guards": ["PSP@5", "tale:R@5"]}, "judge.guards: there is no bin of labels 'tale'"),
        ({"guards": ["R@500"]}, "judge.guards names 'R@500', beyond evaluate.top_k, 100"),
    ],
)
def test_wrong_settings_are_refused_by_name(judge, said):
    with pytest.raises(ConfigError, match=said):
        settings_from(yaml.safe_load(params_yaml(f"judge: {json.dumps(judge)}")), "params.yaml")


def test_the_page_tells_the_decision_and_survives_odd_names(Y):
    rng = np.random.default_rng(8)
    mask = np.arange(300) < 40
    name = "type=<b>x</b> | [link](http://example.org)\n# head"
    found = decide(ranker(rng, Y, 0.5), ranker(rng, Y, 0.0), Y, {name: mask, "tiny": mask & False}, guards=["PSP@5"])
    page = render(found)
    assert page.startswith("**Not promoted**, on 300 held-out documents.")
    for wrong in ("<b>", "[link]", "\n# head"):
        assert wrong not in page
    assert "tiny (0)" in page
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in tables}) == 1
    assert f"{100 * found.difference.challenger:.2f}" in page
    promoted = decide(ranker(rng, Y, 0.0), ranker(rng, Y, 0.9), Y)
    assert render(promoted).startswith("**Promoted**")
