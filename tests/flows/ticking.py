"""Cheap flows for schedules and automations, with the guards of the real ones."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import deployment, flow_run

from flows.pulse import telling_progress
from flows.ticks import take_over_due_ticks
from tasks.workspace.board import Board, CellState


@flow(name="tick", persist_result=False)
def tick(seconds: float) -> None:
    """Take so long."""
    take_over_due_ticks()
    begun = time.time()
    time.sleep(seconds)
    ran = {
        "name": deployment.name,
        "due": flow_run.scheduled_start_time.timestamp(),
        "begun": begun,
        "ended": time.time(),
    }
    with Path(os.environ["TICKS"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(ran) + "\n")


@flow(name="fail", persist_result=False)
def fail() -> None:
    """Fail."""
    raise ValueError("on purpose")


@flow(name="stall", persist_result=False)
def stall() -> None:
    """Get on for a while, then no more."""
    board = Board(Path("board"))
    board.clear()
    with telling_progress(Path("board"), seconds=1):
        for step in range(20):
            board.show(CellState(label="cell", phase="train", done=step, total=100))
            time.sleep(1)
        time.sleep(600)
