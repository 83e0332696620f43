"""A step in progress: what the board shows of it, and how its run ends when it fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from tasks.foundation.errors import CancelledRunError, ErrorRecord, InterruptedRunError, ResourceError, TunelineError
from tasks.launch.slots import Devices, current_slots
from tasks.tracking import Run, create_run, owned_here
from tasks.workspace.board import Board, CellState, Phase
from tasks.workspace.steps import current_steps
from tasks.workspace.values import Place

log = logging.getLogger(__name__)


class Reporter:
    """Shows one step of one cell."""

    def __init__(
        self, place: Place, phase: Phase, devices: Devices = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.devices = devices
        self._clock = clock
        self._place = place
        self._phase = phase
        self._started = clock()
        self._note = ""

    def note(self, text: str) -> None:
        """Something that stays on the board while the step goes on."""
        self._note = text
        self.show(CellState(label=self._place.label, phase=self._phase))

    def progress(self, done: int, total: int, loss: float | None = None, seconds_left: float | None = None) -> None:
        """Units of the step so far; without an estimate the time left is extrapolated from the time taken."""
        if seconds_left is None and done:
            seconds_left = (self._clock() - self._started) / done * (total - done)
        self.show(
            CellState(label=self._place.label, phase=self._phase, done=done, total=total, loss=loss), seconds_left
        )

    def show(self, state: CellState, seconds_left: float | None = None) -> None:
        """Put a state on the board, at this cell's place."""
        update = {"position": self._place.position, "seconds_left": seconds_left, "detail": self._note}
        Board(self._place.board).show(state.model_copy(update=update))


@contextmanager
def reporting(place: Place, phase: Phase) -> Iterator[Reporter]:
    """Show the step while it runs; whatever is raised inside is recorded on board and run, and raised on."""
    reporter = Reporter(place, phase)
    with current_steps().one():
        try:
            reporter.show(CellState(label=place.label, phase=phase))
            yield reporter
        except BaseException as error:
            close_failed(place, error)
            raise


@contextmanager
def working(place: Place, phase: Phase) -> Iterator[Reporter]:
    """Like `reporting`, for a step that needs one of the flow's slots; the board says `waiting` until one is free."""
    with reporting(place, "waiting") as waiting, current_slots().hold(waiting.note) as devices:
        reporter = Reporter(place, phase, devices)
        reporter.show(CellState(label=place.label, phase=phase))
        yield reporter


def open_cell(place: Place, label: str, position: int, experiment: str) -> Place:
    """The place of a cell, with a run under that of `place`; the session closes it should no step come to do so."""
    run = create_run(place.workspace.spool, name=label, experiment=experiment, parent=place.run)
    cell = place.model_copy(update={"label": label, "position": position, "run": run})
    current_steps().opened(cell)
    return cell


def close_left(places: Iterable[Place], error: BaseException) -> None:
    """End the runs of cells that no step has ended, since the flow was ended before one of them began."""
    for place in places:
        if owned_here(place.run.journal):
            close_failed(place, error)


def close_failed(place: Place, error: BaseException) -> None:
    """End the cell's run with the status that fits the cause, and say the cause on the board."""
    record = ErrorRecord.of(error)
    cause = record.error()
    killed = isinstance(cause, CancelledRunError | InterruptedRunError)
    log.error("%s: %s", place.label, cause, exc_info=None if isinstance(error, TunelineError) else error)
    state = CellState(label=place.label, phase="failed", position=place.position, detail=str(cause))
    Board(place.board).show(state)
    run = Run(place.run)
    try:
        with suppress(ResourceError):  # a full disk: the end has precedence over its reason
            run.set_tags({"tuneline.error": str(cause), "tuneline.exit_code": str(record.exit_code)})
        run.finish("KILLED" if killed else "FAILED")
    except ResourceError as unwritable:
        log.error("%s: its end cannot be recorded; the next start does it: %s", place.label, unwritable)


def close_done(place: Place, *, cached: bool) -> None:
    """End the cell's run well."""
    run = Run(place.run)
    run.set_tags({"tuneline.cached": str(cached).lower()})
    run.finish("FINISHED")
    detail = "cached" if cached else ""
    Board(place.board).show(CellState(label=place.label, phase="done", position=place.position, detail=detail))
