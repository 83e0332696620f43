"""The comparison as text: Markdown for MLflow and Prefect, CSV for machines, rich for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tasks.comparison.columns import ALWAYS, Column, columns_of
from tasks.comparison.compare import BASELINE, CHAMPION_KIND
from tasks.comparison.markdown import line, markdown_cell, one_line
from tasks.comparison.sizes import size_lines, size_table
from tasks.comparison.values import Comparison, ComparisonRow

_FACTS = (
    "forgetting",
    "trainable_parameters",
    "peak_memory_bytes",
    "train_seconds",
    "tokens_per_second",
    "weights_bytes",
    "merge",
    "note",
    "run_id",
)
_WIDEST_LABEL = 28


def to_markdown(comparison: Comparison, links: Mapping[str, str] = MappingProxyType({})) -> str:
    """A document with one table (best first, the winner in bold), the winner's line, and notes on single cells.

    `links`: label -> where the name of a cell leads to.
    """
    columns = columns_of(comparison)
    head = ["cell", "status", *(column.title for column in columns)]
    lines = [
        f"## {comparison.name}",
        "",
        verdict(comparison),
        "",
        line(head),
        line(["---", "---", *_rights(columns)]),
    ]
    for place, row in enumerate(comparison.rows):
        label = markdown_cell(row.label)
        label = f"[{label}]({links[row.label]})" if row.label in links else label
        label = f"**{label}**" if row.label == comparison.winner else label
        lines.append(line([label, row.status, *(markdown_cell(column.cells[place]) for column in columns)]))
    notes = [f"- {markdown_cell(row.label)}: {markdown_cell(row.note)}" for row in comparison.rows if row.note]
    notes += [f"- {markdown_cell(row.label)} failed: {markdown_cell(row.reason)}" for row in _failed(comparison)]
    legend = "↑ more is better, ↓ less is better, Δ difference to the untuned base."
    return "\n".join([*lines, "", *size_table(comparison), *notes, *([""] if notes else []), legend, ""])


def to_csv(comparison: Comparison) -> str:
    """One line per cell with raw numbers (bytes, seconds, full precision), best first; absent values are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    deltas = [f"delta_{name}" for name in comparison.metrics]
    writer.writerow(["label", "kind", "seed", "status", "reason", *comparison.metrics, *deltas, *_FACTS])
    for row in comparison.rows:
        values = [row.metrics.get(name) for name in comparison.metrics]
        changes = [row.delta.get(name) for name in comparison.metrics]
        facts = [getattr(row, name) for name in _FACTS]
        writer.writerow([row.label, row.kind, row.seed, row.status, one_line(row.reason), *values, *changes, *facts])
    return out.getvalue()


def to_rich(comparison: Comparison) -> RichComparison:
    """For a terminal: as many columns as fit its width, what decides first; failures and cached cells below."""
    return RichComparison(comparison)


class RichComparison:
    """A rich renderable that chooses its columns by the width it is given."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table(options.max_width)
        yield from self._notes()

    def table(self, width: int) -> Table:
        """The table with the columns that fit into `width` characters; long labels end with an ellipsis."""
        comparison = self.comparison
        labels = [f"{self._mark(row)} {row.label}" for row in comparison.rows]
        label_width = min(max([cell_len(label) for label in labels] + [6]), _WIDEST_LABEL)
        columns = _fitting(columns_of(comparison), width - label_width)
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
        table.add_column("  cell", no_wrap=True, overflow="ellipsis", width=label_width)
        for column in columns:
            decides = column.short == comparison.metric
            table.add_column(
                column.short, justify="right", no_wrap=True, header_style="bold cyan" if decides else "bold"
            )
        for place, row in enumerate(comparison.rows):
            table.add_row(Text(labels[place]), *(column.cells[place] for column in columns), style=self._style(row))
        return table

    def _mark(self, row: ComparisonRow) -> str:
        if row.label == self.comparison.winner:
            return "★"
        return "✗" if row.status == "failed" else " "

    def _style(self, row: ComparisonRow) -> str:
        if row.label == self.comparison.winner:
            return "bold green"
        return "red" if row.status == "failed" else ""

    def _notes(self) -> Iterable[Text]:
        yield Text(verdict(self.comparison))
        for text in size_lines(self.comparison):
            yield Text(text)
        cached = [row.label for row in self.comparison.rows if row.status == "cached"]
        if cached:
            who = "all cells" if len(cached) == len(self.comparison.rows) else ", ".join(cached)
            yield Text(f"cached, verified and not run again: {who}", style="dim")
        for row in self.comparison.rows:
            if row.note:
                yield Text(f"{row.label}: {one_line(row.note)}", style="yellow")
        for row in _failed(self.comparison):
            yield Text(f"{row.label} failed: {one_line(row.reason)}", style="red")


def _fitting(columns: list[Column], room: int) -> list[Column]:
    """Leave out the heaviest columns until the rest fits; each takes its widest text and one space."""
    kept = list(columns)
    while sum(_width(column) for column in kept) > room:
        heaviest = max(kept, key=lambda column: column.weight, default=None)
        if heaviest is None or heaviest.weight == ALWAYS:
            break
        kept.remove(heaviest)
    return kept


def _width(column: Column) -> int:
    return 1 + max(cell_len(text) for text in (column.short, *column.cells))


def verdict(comparison: Comparison) -> str:
    """Who won, and by what."""
    direction = "highest" if comparison.higher_is_better else "lowest"
    if comparison.winner is None:
        return f"No winner by {direction} {comparison.metric}: no trained cell has a score."
    won = f"Winner by {direction} {comparison.metric}: {comparison.winner}."
    first = comparison.rows[0]
    if first.kind == BASELINE:
        return f"{won} {first.label} is better and trains nothing, so it cannot win."
    return f"{won} {first.label} is better and in production already." if first.kind == CHAMPION_KIND else won


def _failed(comparison: Comparison) -> list[ComparisonRow]:
    return [row for row in comparison.rows if row.status == "failed"]


def _rights(columns: list[Column]) -> list[str]:
    return ["---:"] * len(columns)
