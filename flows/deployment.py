"""`python -m flows.deployment`: put on the server that PREFECT_API_URL names what the flows need there.

The work pool, the deployments of prefect.yaml in this folder, and the automations; what is there already stays or is
brought up to date.
"""

import sys
from contextlib import suppress

from prefect.cli import app
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from flows import automations
from flows.local.worker import POOL


def main() -> None:
    """Do it all in one process: each start of Prefect's command line takes seconds."""
    with suppress(ObjectAlreadyExists), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all"]
    try:
        app()
    except SystemExit as end:
        if end.code:
            raise
    automations.main()


if __name__ == "__main__":
    main()
