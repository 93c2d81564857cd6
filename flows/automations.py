"""`python -m flows.automations`: what the Prefect server does by itself, besides the triggers in prefect.yaml.

A flow run whose process was killed together with its worker, or whose machine is gone, would stay "running" for ever
and hold its place in a concurrency limit. Runs tell of themselves every PREFECT_FLOWS_HEARTBEAT_FREQUENCY seconds; one
that falls silent is marked as crashed.
"""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
NAME = "cascadexml: a silent run has crashed"
SILENCE = timedelta(seconds=180)
"""Six heartbeats of 30 seconds, the fastest that Prefect sends: a busy server is late with some, and a run that is
declared dead while it works is worse than a dead one that is found late."""


def silent_runs() -> AutomationCore:
    """The automation that marks silent runs as crashed."""
    return AutomationCore(
        name=NAME,
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ENDS)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="The run fell silent: its process or machine is gone.",
                name=None,
                force=False,
            )
        ],
    )


def main() -> None:
    """Make the automation, unless it is there."""
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(NAME):
            client.create_automation(silent_runs())


if __name__ == "__main__":
    main()
