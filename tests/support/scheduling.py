"""Which tests share a process when several run side by side (`pytest -n 2 --dist loadfile`)."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling

SERVICES = ("test_flows", "test_readme", "test_ui")
"""Files that need the finished project with its services, which one process then makes and the others do not."""

ORDER = ("services", "test_registry_faults", "test_encoders", "test_services")
"""The order in which processes take groups up: those that take longest first, so that both processes end at about the
same time. Each process is given two groups at the start."""


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
