"""Everything that a flow holds while it runs, and lets go of in order, however it ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pydantic import SerializeAsAny

from tasks.foundation.values import Value
from tasks.launch.children import children
from tasks.launch.gangs import GRACE_SECONDS, gangs
from tasks.launch.launchers import Launcher
from tasks.launch.reap import make_way
from tasks.launch.slots import Permit, Slots, accelerators, free_for_all, sharing, slots_for
from tasks.tracking import Run, RunRef, create_run, owned_here, run_page
from tasks.tracking.settings import TrackingSettings
from tasks.tracking.shipper import Shipper
from tasks.workspace.board import Board, CellState
from tasks.workspace.reporting import close_left
from tasks.workspace.steps import Steps, counting
from tasks.workspace.values import Place, Workspace

log = logging.getLogger(__name__)

SHARED = "data and base"
"""Label of the steps that all cells share."""

_QUIET_SECONDS = 8.0
"""How long the steps of a cancelled flow get to record their end, once their processes are gone."""


class Opening(Value):
    """What a session is opened with."""

    name: str
    """The experiment's name: of the report folder and the parent run."""
    flow: str
    """The flow's name, for the run's tags."""
    tracking: TrackingSettings
    distributed: SerializeAsAny[Launcher]


class Session:
    """An open session: the place of the shared steps, and the way to MLflow."""

    def __init__(self, place: Place, shipper: Shipper, tracking: TrackingSettings) -> None:
        self.place = place
        self._shipper = shipper
        self._tracking = tracking

    @property
    def unsent(self) -> int:
        """Events that MLflow had not taken when the session ended."""
        return self._shipper.unsent

    def flush(self) -> None:
        """Send what is left to MLflow, for the time that the settings allow."""
        self._shipper.flush(self._tracking.flush_seconds)

    def run_id(self, ref: RunRef) -> str:
        """MLflow's id of a run; empty while the server does not know it."""
        return self._shipper.run_id(ref) or ""

    def page_of(self, ref: RunRef) -> str | None:
        """MLflow's page of a run; None while there is none."""
        return run_page(self._tracking, ref)


@contextmanager
def session(opening: Opening, workspace: Workspace, permit: Permit = free_for_all) -> Iterator[Session]:
    """Open the record, the slots and the child processes; end ranks and children first, the record last.

    `permit`: leave for cells to work beside other runs, where somebody counts the accelerators of all of them.
    """
    make_way(GRACE_SECONDS)
    board = workspace.board(opening.name)
    Board(board).clear()
    slots = slots_for(opening.distributed, accelerators(), _cores(), permit)
    with Shipper(opening.tracking, workspace.spool, workspace.mlflow_artifacts) as shipper:
        run = create_run(
            workspace.spool,
            name=opening.name,
            experiment=opening.tracking.experiment or opening.name,
            tags={"tuneline.flow": opening.flow},
        )
        place = Place(workspace=workspace, board=board, label=SHARED, position=0, run=run)
        held = Session(place, shipper, opening.tracking)
        try:
            log_file = workspace.report(opening.name) / "children.log"
            pool = children(slots.count, log_file, opening.distributed.stall_seconds)
            with counting() as steps, _processes(slots, steps, pool):
                yield held
        except BaseException as error:
            close_left([*steps.cells, place], error)
            raise
        else:
            if owned_here(place.run.journal):  # otherwise a step has closed it as failed
                Run(place.run).finish("FINISHED")
                Board(board).show(CellState(label=SHARED, phase="done"))


@contextmanager
def _processes(slots: Slots, steps: Steps, pool: AbstractContextManager[object]) -> Iterator[None]:
    """Slots, child processes and ranks; at the end none of them is there, and every step has closed its run."""
    try:
        with sharing(slots), pool, gangs():
            yield
    finally:
        if not steps.wait(_QUIET_SECONDS):
            log.warning("a step has not ended within %.0f s of the flow's end", _QUIET_SECONDS)


def _cores() -> int:
    """The cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
