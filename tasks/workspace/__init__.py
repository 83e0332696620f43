"""Where everything of one installation lies, and what is happening in it. The public face of the package."""

from tasks.workspace.board import Board, CellState, Phase, read_board
from tasks.workspace.reporting import Reporter, close_done, close_failed, close_left, open_cell, reporting, working
from tasks.workspace.values import Place, Workspace

__all__ = [
    "Board",
    "CellState",
    "Phase",
    "Place",
    "Reporter",
    "Workspace",
    "close_done",
    "close_failed",
    "close_left",
    "open_cell",
    "read_board",
    "reporting",
    "working",
]
