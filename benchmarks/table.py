"""Figures as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.figures import Figure

_VERDICTS = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}


def table_of(title: str, figures: Sequence[Figure]) -> Table:
    """One line per figure: medians, ratio, goal."""
    table = Table(title=title, title_justify="left")
    for name in ("figure", "tuneline", "baseline", "ratio", "goal", ""):
        table.add_column(name, justify="left" if name in ("figure", "goal", "") else "right")
    for figure in figures:
        table.add_row(
            figure.name,
            _amount(figure.median, figure.unit),
            _amount(figure.their_median, figure.unit),
            "" if figure.ratio is None else f"{figure.ratio:.3f}",
            figure.goal.text(figure.unit) if figure.goal else "",
            _VERDICTS[figure.met],
        )
    return table


def notes_of(figures: Sequence[Figure]) -> list[str]:
    """What the lines are compared with, and what else must be said, each once."""
    names: dict[str, list[str]] = {}
    for figure in figures:
        for text in filter(None, (figure.against and f"against {figure.against}", figure.note)):
            names.setdefault(text, []).append(figure.name)
    return [
        text if len(of) == len(figures) else f"{', '.join(dict.fromkeys(of))}: {text}" for text, of in names.items()
    ]


def _amount(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}"
