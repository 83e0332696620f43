"""Pieces of Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def markdown_cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table."""
    return one_line(text).replace("\\", "\\\\").replace("|", "\\|")


def one_line(text: str) -> str:
    """White space of any kind as single spaces."""
    return " ".join(text.split())
