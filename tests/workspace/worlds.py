"""A place to report to, and the tracking server in memory to which its run goes."""

from __future__ import annotations

from pathlib import Path

from tasks.tracking import TrackingSettings, create_run
from tasks.tracking.memory import MemoryRun, MemorySink
from tasks.tracking.shipper import Shipper
from tasks.workspace import CellState, Place, Workspace, read_board


def place_in(runs: Path, label: str = "lora", position: int = 1) -> Place:
    workspace = Workspace(runs=runs)
    board = workspace.report("stories") / "progress"
    board.mkdir(parents=True, exist_ok=True)
    run = create_run(workspace.spool, name=label, experiment="stories")
    return Place(workspace=workspace, board=board, label=label, position=position, run=run)


def arrived(place: Place) -> MemoryRun:
    """The place's run as the server knows it once everything was sent."""
    sink = MemorySink()
    with Shipper(
        TrackingSettings(flush_seconds=120), place.workspace.spool, place.workspace.mlflow_artifacts, sink=sink
    ):
        pass
    return sink.named(place.label)


def shown(place: Place) -> CellState:
    """What the board says of the place."""
    (state,) = [state for state in read_board(place.board) if state.label == place.label]
    return state
