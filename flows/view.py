"""Watching a run: a bar per cell in a terminal, plain lines elsewhere. It reads the board, nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.workspace.board import CellState, read_board

_SECONDS_BETWEEN_LOOKS = 0.25
_STYLES = {"done": "green", "failed": "bold red", "waiting": "dim"}
_PLAIN_SHARES = 4
"""Plain lines per phase: at each quarter."""


@contextmanager
def watching(board: Path, console: Console) -> Iterator[None]:
    """Show the board from a thread until the run ends."""
    stop = threading.Event()
    show = _live if console.is_terminal else _plain
    thread = threading.Thread(target=show, args=(board, console, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _live(board: Path, console: Console, stop: threading.Event) -> None:
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while not stop.wait(_SECONDS_BETWEEN_LOOKS):
            live.update(bars(read_board(board)))
        live.update(bars(read_board(board)))


def bars(states: list[CellState]) -> Table:
    """One line per cell, at most 80 columns wide."""
    table = Table.grid(padding=(0, 1))
    for width in (18, 9, 18):
        table.add_column(width=width, no_wrap=True, overflow="ellipsis")
    for width in (11, 10, 7):
        table.add_column(width=width, justify="right", no_wrap=True)
    for state in states:
        style = _STYLES.get(state.phase, "")
        table.add_row(
            Text(state.label, style=style),
            Text(state.detail if state.phase == "done" and state.detail else state.phase, style=style),
            ProgressBar(total=state.total, completed=state.done) if state.total else Text(""),
            f"{state.done}/{state.total}" if state.total else "",
            f"loss {state.loss:.3f}" if state.loss is not None and state.phase == "train" else "",
            clock(state.seconds_left) if state.seconds_left is not None else "",
        )
    return table


def clock(seconds: float) -> str:
    """`1:05`, `2:00:09`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _plain(board: Path, console: Console, stop: threading.Event) -> None:
    seen: dict[str, tuple[str, int, str]] = {}
    while True:
        ending = stop.wait(_SECONDS_BETWEEN_LOOKS)
        for state in read_board(board):
            mark = (state.phase, state.done * _PLAIN_SHARES // state.total if state.total else 0, state.detail)
            if seen.get(state.label) != mark:
                seen[state.label] = mark
                console.print(line(state), highlight=False, markup=False, soft_wrap=True)
        if ending:
            return


def line(state: CellState) -> str:
    """One state as plain text."""
    parts = [f"{state.label}: {state.phase}"]
    if state.total:
        parts.append(f"{state.done}/{state.total}")
    if state.loss is not None:
        parts.append(f"{'' if state.phase == 'train' else 'train '}loss {state.loss:.3f}")
    if state.seconds_left is not None and state.phase not in ("done", "failed"):
        parts.append(f"{clock(state.seconds_left)} left")
    if state.detail:
        parts.append(f"({state.detail})")
    return " ".join(parts)
