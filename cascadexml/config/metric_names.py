"""What metrics are called: names such as "nDCG@5", and "tail:R@20" for recall on one bin of labels."""

import difflib
import re

from cascadexml.errors import ConfigError

FAMILIES = ("P", "R", "F1", "nDCG", "PSP", "PSnDCG")
BINS = ("head", "torso", "tail", "unseen")
"""Labels by how often they occur in train."""


def metric_of(name: str) -> tuple[str, int]:
    """Take a metric's name such as "nDCG@5" apart into its family and k.

    Raises:
        ConfigError: there is no such metric; the nearest right name is given.
    """
    family, _, k = name.partition("@")
    if family in FAMILIES and re.fullmatch(r"[1-9][0-9]*", k):
        return family, int(k)
    by_case = {known.lower(): known for known in FAMILIES}
    near = by_case[difflib.get_close_matches(family.lower(), by_case, n=1, cutoff=0.0)[0]]
    digits = re.search(r"[1-9][0-9]*", k or name[len(near) :])
    raise ConfigError(
        f"there is no metric {name!r}, expected one of {', '.join(FAMILIES)} with '@' and a whole number from 1; "
        f"the nearest is '{near}@{digits.group() if digits else 5}'."
    )


def guard_of(name: str) -> tuple[str | None, str, int]:
    """Take a figure's name apart: "PSP@5" is (None, "PSP", 5); "tail:R@20", on one bin's labels, is ("tail", "R", 20).

    Raises:
        ConfigError: there is no such metric or bin, or the metric has no figure by bin.
    """
    bin_, colon, metric = name.rpartition(":")
    family, k = metric_of(metric)
    if not colon:
        return None, family, k
    if bin_ not in BINS:
        raise ConfigError(f"there is no bin of labels {bin_!r} in {name!r}, expected one of {', '.join(BINS)}.")
    if family != "R":
        raise ConfigError(f"{name!r} asks for {family} by bin, expected R: only recall is a bin's own, '{bin_}:R@{k}'.")
    return bin_, family, k
