import gc
import json
import math
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError
from cascadexml.monitoring import drift
from cascadexml.monitoring.drift import compare, decide, quality_figures, unseen_figures
from cascadexml.monitoring.effects import null_divergences
from cascadexml.monitoring.history import history_figure
from cascadexml.monitoring.profile import Profile
from cascadexml.monitoring.reference import Reference
from cascadexml.monitoring.text_statistics import hash_words, text_statistics
from cascadexml.monitoring.verdict import BatchSummary, Check, MonitoredModel, UnseenLabels, Verdict
from tests.conftest import sample_records
from tests.support.label_matrices import random_labels
from tests.support.params import SETTINGS

DRIFT = replace(SETTINGS.drift, draws=1000)


def made(rng: np.random.Generator, n: int, quality: float = 0.5, unseen: float = 0.02, top: float = 0.5) -> Profile:
    """A synthetic profile of n records with figures drawn around the given ones."""
    table = {
        "characters": rng.normal(600, 100, n),
        "top_probability": rng.beta(20 * top, 20 * (1 - top), n),
        "labels": np.full(n, 2.0),
        "unseen_labels": rng.binomial(2, unseen, n).astype(float),
        "nDCG@5": rng.beta(5 * quality, 5 * (1 - quality), n),
        "P@1": rng.binomial(1, quality, n).astype(float),
        "type": rng.choice(["Book", "Thesis"], n, p=[0.8, 0.2]),
    }
    return Profile(pa.table(table), rng.normal(size=(n, 6)).astype(np.float16), random_labels(rng, n, 40))


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(3)
    return Reference(made(rng, 1200), np.zeros(0, np.uint64), random_labels(rng, 3000, 40), {})


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.failed}


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_batch_like_the_reference_is_stable_and_equal_calls_are_equal(reference: Reference) -> None:
    batch = made(np.random.default_rng(4), 700)
    checks = compare(reference, batch, DRIFT, seed=1)
    assert failed(checks) == set()
    assert decide(checks, DRIFT)[0] == "stable"
    assert compare(reference, batch, DRIFT, seed=1) == checks


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"quality": 0.35}, {"nDCG@5", "P@1"}),
        ({"unseen": 0.08}, {"unseen_labels"}),
        ({"top": 0.4}, {"top_probability"}),
    ],
)
def test_each_kind_of_change_fails_its_own_check(reference: Reference, change: Any, check: set[str]) -> None:
    assert failed(compare(reference, made(np.random.default_rng(5), 700, **change), DRIFT)) == check


def test_other_labels_other_vectors_and_other_types_fail_theirs(reference: Reference) -> None:
    rng = np.random.default_rng(6)
    batch = made(rng, 700)
    flat = replace(batch, Y=random_labels(rng, 700, 40, power=0.3))
    assert failed(compare(reference, flat, DRIFT)) == {"label_distribution"}
    moved = replace(batch, vectors=batch.vectors + np.array([0.8, 0, 0, 0, 0, 0], np.float16))
    assert failed(compare(reference, moved, DRIFT)) == {"embedding"}
    types = pa.array(rng.choice(["Book", "Thesis"], 700, p=[0.4, 0.6]))
    place = batch.table.schema.get_field_index("type")
    other = replace(batch, table=batch.table.set_column(place, "type", types))
    assert failed(compare(reference, other, DRIFT)) == {"type"}


def test_a_significant_but_small_change_and_a_large_but_uncertain_one_pass(reference: Reference) -> None:
    small = compare(reference, made(np.random.default_rng(7), 20_000, quality=0.475), DRIFT)
    assert named(small, "nDCG@5").p_value < 0.001
    assert failed(small) == set()
    few = compare(reference, made(np.random.default_rng(8), 12), DRIFT)
    assert named(few, "characters").value > DRIFT.max_text_shift
    assert "characters" not in failed(few)


def test_the_fall_in_quality_and_its_interval(reference: Reference) -> None:
    batch = made(np.random.default_rng(9), 400, quality=0.45)
    check = named(compare(reference, batch, DRIFT), "nDCG@5")
    ours, theirs = (side.table.column("nDCG@5").to_numpy() for side in (reference.profile, batch))
    assert check.value == pytest.approx(ours.mean() - theirs.mean())
    error = math.sqrt(ours.var() / ours.size + theirs.var() / theirs.size)
    assert check.p_value == pytest.approx(stats.norm.sf(check.value / error), abs=0.01)
    figures = quality_figures(reference.profile, batch, 1000)
    assert figures is not None
    half = 1.96 * theirs.std() / math.sqrt(theirs.size)
    assert figures["nDCG@5"].low == pytest.approx(theirs.mean() - half, abs=0.003)
    assert figures["nDCG@5"].high == pytest.approx(theirs.mean() + half, abs=0.003)
    assert figures["nDCG@5"].reference == pytest.approx(ours.mean())


def test_the_p_value_of_unseen_labels_is_hypergeometric(reference: Reference) -> None:
    batch = made(np.random.default_rng(10), 300, unseen=0.05)
    check = named(compare(reference, batch, DRIFT), "unseen_labels")
    hits = [int((side.table.column("unseen_labels").to_numpy() > 0).sum()) for side in (reference.profile, batch)]
    tail = sum(
        math.comb(sum(hits), k) * math.comb(1500 - sum(hits), 300 - k) for k in range(hits[1], min(300, sum(hits)) + 1)
    )
    assert check.p_value == pytest.approx(tail / math.comb(1500, 300))
    shares = [
        side.table.column("unseen_labels").to_numpy().sum() / (2 * len(side)) for side in (reference.profile, batch)
    ]
    assert check.value == pytest.approx(shares[1] - shares[0])


def test_without_labels_their_checks_are_left_out(reference: Reference) -> None:
    batch = made(np.random.default_rng(11), 300)
    bare = replace(batch, Y=None, table=batch.table.select(["characters", "top_probability"]))
    assert {check.name for check in compare(reference, bare, DRIFT)} == {
        "characters",
        "top_probability",
        "embedding",
    }
    assert quality_figures(reference.profile, bare, 100) is None


def test_labels_that_belong_to_other_texts_are_quarantined(reference: Reference) -> None:
    checks = compare(reference, made(np.random.default_rng(12), 300, quality=0.05), DRIFT)
    verdict, reasons = decide(checks, DRIFT)
    assert verdict == "quarantined"
    assert [reason.split(":")[0] for reason in reasons] == ["labels_fit_texts"]


@given(st.lists(st.booleans(), max_size=8), st.lists(st.booleans(), max_size=3), st.integers(1, 6))
def test_the_verdict_counts_failed_checks(compared: list[bool], valid: list[bool], enough: int) -> None:
    checks = [Check("c", "text", "s", 1.0, 0.5, 0.0, fails) for fails in compared]
    checks += [Check("v", "validity", "s", 1.0, 0.5, None, fails) for fails in valid]
    expected = "quarantined" if any(valid) else "drift" if sum(compared) >= enough else "stable"
    assert decide(checks, replace(DRIFT, min_failed=enough))[0] == expected


def real_profiles() -> tuple[Profile, Profile, Reference]:
    """Real records with the statistics that need no model: training's years, later years; vectors are pure noise."""
    train, test = sample_records("train", 6000), sample_records("test", 3000)
    later = sample_records("incoming/2022-2025", 1500)
    words = hash_words([row["text"] for row in train])
    labels = [sorted({label for row in rows for label in row["labels"]}) for rows in (train, test + later)]
    vocabulary = Vocabulary.build(labels[0], labels[1], {})

    def profile(rows: list[dict[str, Any]]) -> Profile:
        flat = vocabulary.rows(pa.array([label for row in rows for label in row["labels"]]))
        offsets = np.cumsum([0, *(len(row["labels"]) for row in rows)])
        Y = sparse.csr_matrix((np.ones(flat.size, np.float32), flat, offsets), shape=(len(rows), len(vocabulary)))
        columns = text_statistics([row["text"] for row in rows], words) | {
            "type": [row["type"] for row in rows],
            "labels": np.diff(Y.indptr).astype(float),
            "unseen_labels": np.diff(Y[:, vocabulary.L :].tocsr().indptr).astype(float),
        }
        noise = np.random.default_rng(len(rows)).normal(size=(len(rows), 8)).astype(np.float16)
        return Profile(pa.table(columns), noise, Y)

    Y_train = profile(train).Y
    assert Y_train is not None
    return profile(test), profile(later), Reference(profile(test), words, Y_train[:, : vocabulary.L].tocsr(), {})


def test_random_halves_of_real_records_raise_no_alarm_and_later_years_do() -> None:
    held_out, later, whole = real_profiles()
    verdicts, fails = Counter[str](), Counter[str]()
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(3000)
        reference = replace(whole, profile=held_out.take(order[:2000]))
        checks = compare(reference, held_out.take(order[2000:]), DRIFT)
        verdicts[decide(checks, DRIFT)[0]] += 1
        fails.update(failed(checks))
    assert verdicts == {"stable": 12}
    # Test's labels are not quite distributed as train's; everything else is compared with records of test.
    assert set(fails) <= {"label_distribution"}
    checks = compare(whole, later, DRIFT)
    assert decide(checks, DRIFT)[0] == "drift"
    assert {"characters", "type", "unseen_labels", "label_distribution"} <= failed(checks)
    assert "embedding" not in failed(checks)


def test_unseen_figures_name_the_commonest_first() -> None:
    labels = pa.array([["a", "x"], ["y", "x"], ["a"], []], pa.list_(pa.string()))
    known = np.array([True, False, False, False, True])
    assert unseen_figures(labels, known) == UnseenLabels(0.6, 3, ["x", "y"])


def verdict_of(batch: str, outcome: Any, checks: list[Check]) -> Verdict:
    summary, model = BatchSummary(batch, "batch.jsonl", 300, 290, 10, 290), MonitoredModel("tiny", "0" * 64)
    return Verdict(outcome, ["why"], summary, model, checks, None, UnseenLabels(0.123456789, 3, ["x"]))


def test_a_verdict_reads_back_as_it_was_written(reference: Reference) -> None:
    batch = made(np.random.default_rng(14), 300, quality=0.3)
    whole = replace(
        verdict_of("b", "drift", compare(reference, batch, DRIFT)),
        quality=quality_figures(reference.profile, batch, 100),
    )
    verdict = whole.rounded()
    content = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert Verdict.from_json(content) == verdict
    assert list(content) == ["verdict", "reasons", "batch", "model", "checks", "quality", "unseen_labels"]
    assert verdict.unseen_labels.share == 0.123457
    for exact, check in zip(whole.checks, verdict.checks, strict=True):
        assert check.value == pytest.approx(exact.value, rel=1e-5)
    assert verdict.failed == [check["name"] for check in content["checks"] if check["failed"]] != []
    for key in content:
        with pytest.raises(DataError, match="This is no verdict"):
            Verdict.from_json({name: value for name, value in content.items() if name != key})


def test_a_reference_that_nobody_holds_is_let_go(reference: Reference) -> None:
    own = replace(reference)
    compare(own, made(np.random.default_rng(15), 60), DRIFT)
    seen = weakref.ref(own)
    del own
    gc.collect()
    assert seen() is None


def test_the_null_of_a_reference_is_drawn_once_a_size(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    own, sizes = replace(reference), []

    def counted(Y_train: Any, n: int, draws: int, seed: int) -> Any:
        sizes.append(n)
        return null_divergences(Y_train, n, draws, seed)

    monkeypatch.setattr(drift, "null_divergences", counted)
    first = [compare(own, made(np.random.default_rng(16), n), DRIFT) for n in (60, 60, 80)]
    assert sizes == [60, 80]
    assert first[0] == first[1]


def test_the_history_is_drawn_also_with_a_quarantined_batch(tmp_path: Path, reference: Reference) -> None:
    checks = compare(reference, made(np.random.default_rng(13), 300, quality=0.3), DRIFT)
    verdicts = [
        verdict_of(f"batch-{n}", outcome, each)
        for n, (outcome, each) in enumerate([("drift", checks), ("quarantined", []), ("stable", checks[:3])])
    ]
    history_figure(verdicts, tmp_path / "history.png")
    content = (tmp_path / "history.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 20_000
    history_figure(verdicts, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == content
    history_figure([], tmp_path / "none.png")
