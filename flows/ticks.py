"""Of the ticks of a schedule that are due at the same time, one run does the work of all.

A tick waits while the deployment is busy, or while server or worker are away; when the way is free there may be many,
and each would do the same work. So every scheduled run, before anything else, ends those that wait beside it. That one
comes at a time is up to the deployment's concurrency limit (infra/prefect.yaml).
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled

from flows.reconcile import prefect_client

log = logging.getLogger(__name__)

SUPERSEDED: Final = "Superseded"
_PAGE = 200
"""Runs that Prefect's server hands out at a time."""


def take_over_due_ticks() -> tuple[str, ...]:
    """End the other runs of this run's schedules that are due and have not begun; their names.

    A run that somebody started by hand takes nothing over, and is never ended here.
    """
    if not (flow_run.id and deployment.id):
        return ()
    ended = []
    with prefect_client() as client:
        mine = client.read_flow_run(UUID(flow_run.id))
        if not mine.auto_scheduled:
            return ()
        waiting = FlowRunFilter(
            expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        )
        ours = DeploymentFilter(id=DeploymentFilterId(any_=[UUID(deployment.id)]))
        for run in client.read_flow_runs(deployment_filter=ours, flow_run_filter=waiting, limit=_PAGE):
            if run.auto_scheduled and run.id != mine.id:
                message = f"{mine.name} was due at {mine.expected_start_time} and does the work of this one as well."
                client.set_flow_run_state(run.id, Cancelled(name=SUPERSEDED, message=message))
                ended.append(run.name)
    if ended:
        log.info("%d ticks that were due as well are superseded by this run: %s", len(ended), ", ".join(ended))
    return tuple(ended)
