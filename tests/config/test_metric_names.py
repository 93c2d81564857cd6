"""Names of metrics and guards are taken apart, and a wrong one is refused with the nearest right one."""

import pytest

from cascadexml.config.metric_names import guard_of, metric_of
from cascadexml.errors import ConfigError


@pytest.mark.parametrize("name", ["P@1", "nDCG@5", "PSP@3", "R@100", "F1@5", "PSnDCG@10"])
def test_metric_names_are_taken_apart(name: str) -> None:
    family, k = metric_of(name)
    assert f"{family}@{k}" == name


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ndcg@5", "nDCG@5"), ("NDGC@3", "nDCG@3"), ("P1", "P@1"), ("PSP@0", "PSP@5"), ("precision", "P"), ("", "@")],
)
def test_unknown_metric_names_are_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match="there is no metric") as refusal:
        metric_of(name)
    assert nearest in str(refusal.value).rpartition("nearest is")[2]


def test_names_of_guards() -> None:
    assert guard_of("PSP@5") == (None, "PSP", 5)
    assert guard_of("tail:R@20") == ("tail", "R", 20)
    for name, said in (
        ("tial:R@5", "no bin of labels 'tial'"),
        ("tail:P@5", "'tail:R@5'"),
        ("tail:R", "no metric 'R'"),
    ):
        with pytest.raises(ConfigError, match=said):
            guard_of(name)
