"""Tells Prefect's server that a flow run gets on: an event whenever its board has moved. Life alone is not told.

The other way round, a run that the server holds for ended (it showed no progress for too long) ends: whoever runs it
again must find accelerators and folders free.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx
from prefect.events import emit_event
from prefect.runtime import deployment, flow_run

from flows.reconcile import prefect_client
from tasks.workspace.board import CellState, read_board

log = logging.getLogger(__name__)

PROGRESS: Final = "tuneline.run.progress"
_SECONDS_BETWEEN_LOOKS = 15.0


@contextmanager
def telling_progress(board: Path, seconds: float = _SECONDS_BETWEEN_LOOKS) -> Iterator[None]:
    """Look at the board from a thread until the block ends; only for a run of a deployment."""
    if not (flow_run.id and deployment.id):
        yield
        return
    stop = threading.Event()
    arguments = (board, (str(flow_run.id), str(deployment.id)), stop, seconds)
    thread = threading.Thread(target=_tell, args=arguments, name="tuneline-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def _tell(board: Path, ids: tuple[str, str], stop: threading.Event, seconds: float) -> None:
    before: list[CellState] = []
    while not stop.wait(seconds):
        if _is_over(ids[0]):
            log.error("Prefect's server holds this flow run for ended; so it ends")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        now = read_board(board)
        if now != before or _only_waits(now):
            before = now
            _emit(*ids)


def _is_over(run: str) -> bool:
    try:
        with prefect_client() as client:
            state = client.read_flow_run(UUID(run)).state
    except httpx.HTTPError as error:
        log.warning("the state of the flow run is not known now: %s", error)
        return False
    return state is not None and state.is_final()


def _only_waits(states: list[CellState]) -> bool:
    """Cells are to be worked on, and each of them waits for a place: the run is fine, others are in front of it."""
    phases = {state.phase for state in states} - {"done", "failed"}
    return phases == {"waiting"}


def _emit(run: str, deployed: str) -> None:
    related = [{"prefect.resource.id": f"prefect.deployment.{deployed}", "prefect.resource.role": "deployment"}]
    emit_event(PROGRESS, resource={"prefect.resource.id": f"prefect.flow-run.{run}"}, related=related)
