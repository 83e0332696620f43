"""What a flow holds, and how it lets go: the record is whole when the session is left, however it is left."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import CancelledRunError, ConfigError, ResourceError
from tasks.launch.children import run_in_child
from tasks.launch.gangs import current_gangs
from tasks.launch.launchers.local import LocalLauncher
from tasks.launch.slots import current_slots
from tasks.tracking import TrackingSettings
from tasks.tracking.memory import MemorySink
from tasks.tracking.shipper import Shipper
from tasks.workspace import Place, Workspace, close_done, open_cell, read_board, working
from tasks.workspace import session as session_module
from tasks.workspace.session import Opening, Session, session
from tests.launch.functions import pid, say_and_sleep
from tests.launch.worlds import alive, pids_of, wait_until

OPENING = Opening(
    name="stories",
    flow="compare-methods",
    tracking=TrackingSettings(flush_seconds=120),
    distributed=LocalLauncher(parallel_cells=1),
)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    """The tracking server in memory, in the place of MLflow."""
    sink = MemorySink()
    monkeypatch.setattr(session_module, "Shipper", partial(Shipper, sink=sink))
    return sink


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(runs=tmp_path / "runs")


def cell_of(here: Session, label: str) -> Place:
    return open_cell(here.place, label, 1, "stories")


def in_thread(action: Callable[[], object]) -> threading.Thread:
    """Start it as Prefect starts a task: in a thread with the flow's context. What it raises is the task's failure."""

    def run() -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    failures: list[BaseException] = []
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    return thread


def test_a_session_that_goes_well_is_a_finished_run_and_everything_is_sent(
    sink: MemorySink, workspace: Workspace
) -> None:
    with session(OPENING, workspace) as here:
        cell = cell_of(here, "lora")
        assert current_slots().count == 1
        assert run_in_child(pid) != os.getpid()
        close_done(cell, cached=False)
        here.flush()
        assert here.run_id(cell.run) == sink.named("lora").run_id

    assert here.unsent == 0
    assert sink.named("stories").status == sink.named("lora").status == "FINISHED"
    assert sink.named("stories").tags["tuneline.flow"] == "compare-methods"
    assert sink.named("stories").new.experiment == "stories"
    assert [(state.label, state.phase) for state in read_board(here.place.board)] == [
        ("data and base", "done"),
        ("lora", "done"),
    ]


def test_a_session_that_fails_says_so_in_its_run(sink: MemorySink, workspace: Workspace) -> None:
    with pytest.raises(ConfigError), session(OPENING, workspace) as here:
        raise ConfigError("no such metric")

    assert sink.named("stories").status == "FAILED"
    assert sink.named("stories").tags["tuneline.exit_code"] == "10"
    assert read_board(here.place.board)[0].detail == "no such metric"


def test_sigterm_ends_children_and_waiting_steps_and_every_run_is_closed_before_the_session_is_left(
    sink: MemorySink, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cell works in a child and needs a moment to tidy up, a second waits for the slot."""

    def work(place: Place) -> None:
        with working(place, "evaluate"):
            try:
                run_in_child(say_and_sleep, tmp_path / "here0")
            finally:
                time.sleep(1.5)

    monkeypatch.setattr(session_module, "_QUIET_SECONDS", 120.0)  # not what is looked at here
    with pytest.raises(SystemExit), session(OPENING, workspace) as here:
        busy = in_thread(partial(work, cell_of(here, "busy")))
        pids = pids_of(tmp_path)
        waiting = in_thread(partial(work, cell_of(here, "waiting")))
        wait_until(lambda: any(state.label == "waiting" for state in read_board(here.place.board)))
        raise SystemExit(143)

    statuses = {name: sink.named(name).status for name in ("stories", "busy", "waiting")}
    assert statuses == {"stories": "KILLED", "busy": "KILLED", "waiting": "KILLED"}
    assert sink.named("busy").tags["tuneline.exit_code"] == "143"
    wait_until(lambda: alive(pids) == [])
    busy.join()
    waiting.join()


def test_sigterm_while_the_cells_are_opened_closes_those_that_no_step_came_to(
    sink: MemorySink, workspace: Workspace
) -> None:
    with pytest.raises(SystemExit), session(OPENING, workspace) as here:
        close_done(cell_of(here, "done"), cached=False)
        cell_of(here, "left")
        raise SystemExit(143)

    assert {name: sink.named(name).status for name in ("done", "left")} == {"done": "FINISHED", "left": "KILLED"}
    assert sink.named("left").tags["tuneline.exit_code"] == "143"
    assert {state.label: state.phase for state in read_board(here.place.board)}["left"] == "failed"


def test_who_waits_for_another_process_stops_waiting_when_the_flow_is_cancelled(
    sink: MemorySink, workspace: Workspace
) -> None:
    begun = threading.Event()
    release = threading.Event()

    def make(build: Callable[[Path], object]) -> Artifact:
        return workspace.store.make("train", "k", build)

    def hold(folder: Path) -> None:
        begun.set()
        release.wait()

    holder = threading.Thread(target=partial(make, hold), daemon=True)
    holder.start()
    begun.wait()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            workspace.store.make("train", "k", lambda folder: pytest.fail("built"))
        except CancelledRunError as error:
            caught.append(error)

    with pytest.raises(KeyboardInterrupt), session(OPENING, workspace):
        waiter = in_thread(wait)
        raise KeyboardInterrupt
    waiter.join()
    release.set()
    holder.join()

    assert len(caught) == 1


def test_too_many_ranks_are_refused_before_anything_is_recorded(
    sink: MemorySink, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    opening = OPENING.model_copy(update={"distributed": LocalLauncher(ranks_per_node=2)})
    with pytest.raises(ResourceError), session(opening, workspace):
        pytest.fail("it opened")

    assert not workspace.spool.exists()


def test_a_new_session_forgets_the_board_of_the_one_before(sink: MemorySink, workspace: Workspace) -> None:
    with session(OPENING, workspace) as here:
        close_done(cell_of(here, "old"), cached=True)
    with session(OPENING, workspace) as here:
        assert read_board(here.place.board) == []
        current_gangs().check()
