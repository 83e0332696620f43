"""The board: one small file per cell that says what is happening to it. Anyone may watch; nobody is asked."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tasks.foundation.digests import digest_text
from tasks.foundation.values import Value

log = logging.getLogger(__name__)

Phase = Literal["waiting", "prepare", "train", "merge", "evaluate", "compare", "register", "done", "failed"]


class CellState(Value):
    """What a progress bar shows of one cell."""

    label: str
    phase: Phase
    position: int = 0
    """Place in the list."""
    done: int = 0
    total: int = 0
    """Units of the phase: steps, rows."""
    loss: float | None = None
    """Of training: the latest there was."""
    seconds_left: float | None = None
    detail: str = ""
    """Reason of a failure, or a note such as `cached`."""


class Board:
    """Writes the states of one flow run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clear(self) -> None:
        """Forget the states of an earlier run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob("*.json"):
            path.unlink(missing_ok=True)

    def show(self, state: CellState) -> None:
        """Replace the cell's state atomically; a step that has no loss of its own leaves the one that is there.

        Progress is a courtesy: no fsync, and no step fails for want of it.
        """
        path = self._folder / f"{digest_text(state.label)[:16]}.json"
        if state.loss is None and (before := _read(path)):
            state = state.model_copy(update={"loss": before.loss})
        staged = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            staged.write_text(state.model_dump_json(), encoding="utf-8")
            staged.replace(path)
        except OSError as error:
            log.warning("the progress of %s cannot be shown: %s", state.label, error)


def read_board(folder: Path) -> list[CellState]:
    """All states, in the order of the list; one that is being replaced right now is read at the next look."""
    states = filter(None, map(_read, sorted(folder.glob("*.json"))))
    return sorted(states, key=lambda state: (state.position, state.label))


def _read(path: Path) -> CellState | None:
    try:
        return CellState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
