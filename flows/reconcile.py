"""Closes what a process that died without a word left open: runs in MLflow, flow runs in Prefect.

`tuneline reconcile` does it by hand; the flow does it on a schedule. A flow run is noted in `runs/flow-runs/` by the
process that runs it, which holds the note until Prefect knows how the flow run ended: a note that nobody holds is that
of a dead process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx
from prefect import Flow, flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun, State
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as this_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Crashed

from flows.parts import workspace
from tasks.foundation.values import Value
from tasks.tracking import TrackingSettings, hold, inherited, owned_here, reconcile, release
from tasks.tracking.shipper import Shipper
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 120.0
"""How long MLflow gets to take what waits for it: nobody waits for us."""

_PAGE = 200
"""Task runs that Prefect's server hands out at a time."""


class Reconciled(Value):
    """What was closed, by name."""

    runs: tuple[str, ...]
    flow_runs: tuple[str, ...]


@flow(name="reconcile", flow_run_name="reconcile", persist_result=False)
def reconcile_left_open(tracking_uri: str | None = None, all_hosts: bool = False) -> Reconciled:
    """Close runs and flow runs whose process is dead.

    Args:
        tracking_uri: MLflow's tracking URI; MLFLOW_TRACKING_URI, or the default, when absent.
        all_hosts: also what other hosts that share the runs folder left; none of them may be running anything.
    """
    here = workspace()
    closed, _ = close_runs(here, tracking_of(tracking_uri), all_hosts=all_hosts)
    return Reconciled(runs=tuple(closed), flow_runs=tuple(close_flow_runs(here, all_hosts=all_hosts)))


def tracking_of(uri: str | None) -> TrackingSettings:
    """Where runs are recorded unless an experiment says otherwise."""
    named = uri or os.environ.get("MLFLOW_TRACKING_URI")
    settings = TrackingSettings(flush_seconds=_PATIENCE_SECONDS)
    return settings.model_copy(update={"uri": named}) if named else settings


def close_runs(here: Workspace, tracking: TrackingSettings, *, all_hosts: bool) -> tuple[list[str], int]:
    """Close dead runs in MLflow, and send what waits; the names of the runs, and how many events still wait."""
    if not here.spool.is_dir():
        return [], 0
    closed = reconcile(here.spool, all_hosts=all_hosts)
    with Shipper(tracking, here.spool, here.mlflow_artifacts) as shipper:
        pass  # its end sends everything
    return [ref.name for ref in closed], shipper.unsent


def note_flow_run() -> None:
    """Note that this process runs the current flow run, until `forget_flow_run`, or the process ends."""
    if this_flow_run.id is None:  # the flow's function was called by itself: Prefect knows of no run
        return
    note = _note_of(workspace(), this_flow_run.id)
    if not owned_here(note):  # otherwise Prefect tries it again
        note.parent.mkdir(parents=True, exist_ok=True)
        hold(note)


def forget_flow_run(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """A hook of the flow, its arguments named as Prefect names them: called when its server knows how the run ended.

    The flow's own process calls it; of a cancelled run another one does, once the flow's is dead.
    """
    note = _note_of(workspace(), str(flow_run.id))
    release(note)
    if note.exists():
        with inherited(note):
            pass  # what nobody holds any more is gone after the block


NOTED: Final = {f"on_{end}": [forget_flow_run] for end in ("completion", "failure", "crashed", "cancellation")}
"""The hooks of a flow that calls `note_flow_run`."""


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """A client of the server that PREFECT_API_URL names now; Prefect itself has read it when it was imported."""
    api = os.environ.get("PREFECT_API_URL")
    with temporary_settings({PREFECT_API_URL: api} if api else {}), get_client(sync_client=True) as client:
        yield client


def close_flow_runs(here: Workspace, *, all_hosts: bool = False) -> list[str]:
    """Tell Prefect's server of every flow run whose process is dead; returns their names.

    One that the server does not know belongs to another server, and is left for that; one that it cannot speak of now
    is left for the next time.
    """
    closed: list[str] = []
    notes = sorted(here.flow_runs.glob("*.owner"))
    if not notes:
        return closed
    with prefect_client() as client:
        for note in notes:
            try:
                with inherited(note, all_hosts=all_hosts) as ours:
                    name = _close(client, UUID(note.stem)) if ours else None
            except ObjectNotFound:
                log.warning("Prefect's server does not know flow run %s; PREFECT_API_URL may name another", note.stem)
                continue
            except httpx.HTTPError as error:
                log.warning("flow run %s cannot be closed now: %s", note.stem, error)
                continue
            closed += [name] if name else []
    return closed


def _close(client: SyncPrefectClient, flow_run_id: UUID) -> str | None:
    """End a flow run, its tasks first; None where it had ended, or waits to be run again."""
    run = client.read_flow_run(flow_run_id)
    if run.state is None or not (run.state.is_running() or run.state.is_pending() or run.state.is_cancelling()):
        return None
    message = "The process that ran it is gone; run it again to go on from its last checkpoint."
    end = Cancelled if run.state.is_cancelling() else Crashed
    these = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    offset = 0
    while tasks := client.read_task_runs(flow_run_filter=these, limit=_PAGE, offset=offset):
        for task in tasks:
            if task.state and not task.state.is_final():
                client.set_task_run_state(task.id, end(message=message), force=True)
        offset += len(tasks)
    client.set_flow_run_state(flow_run_id, end(message=message), force=True)
    log.warning("flow run %s was left open by a dead process; it is closed", run.name)
    return str(run.name)


def _note_of(here: Workspace, flow_run_id: str) -> Path:
    return here.flow_runs / f"{flow_run_id}.owner"
