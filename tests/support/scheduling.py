"""Which tests share a process when several run side by side (`pytest -n 3 --dist loadfile`)."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling

SERVICES = ("test_flows", "test_readme", "test_ui")
"""Files that need the finished project with its services, which one process then makes and the others do not."""

ORDER = (
    "services", "test_registry_faults", "test_services",
    "test_encoders", "test_registry", "test_training_processes",
    "test_interruptions", "test_own_data", "test_pipeline", "test_warm_start",
)  # fmt: skip
"""The order in which processes take groups up: those that take longest first, so that all processes end at about the
same time, but first of all what others need. Each of three is given two groups at the start: one of the first row and
the one below it. What needs the finished project comes late, since the group `services` makes it."""


def group_of(file: str) -> str:
    """The group of a file: its own, or that of the files that share the services."""
    stem = PurePosixPath(file).stem
    return "services" if stem in SERVICES else stem


class GroupScheduling(LoadFileScheduling):
    """Gives each group to one process, in the order in which the tests were collected.

    xdist's own groups (`--dist loadgroup`) rename tests by an attribute that pytest 9.2 no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(super()._split_scope(nodeid))
