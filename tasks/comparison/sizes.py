"""Quality per size of the cells whose result can be served in several, as text."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.comparison.markdown import line, markdown_cell
from tasks.comparison.units import decimals_of, fixed
from tasks.comparison.values import Comparison, ComparisonRow


def sized_rows(comparison: Comparison) -> list[ComparisonRow]:
    """The rows with several sizes, in the order of the table."""
    return [row for row in comparison.rows if row.sizes]


def size_metrics(comparison: Comparison) -> list[str]:
    """Names of what was measured at every size."""
    found = (name for row in sized_rows(comparison) for values in row.sizes.values() for name in values)
    return list(dict.fromkeys(found))


def size_table(comparison: Comparison) -> list[str]:
    """Lines of Markdown: a line per cell and size, the largest size first; nothing where there is none."""
    rows, metrics = sized_rows(comparison), size_metrics(comparison)
    if not rows:
        return []
    decimals = {
        name: decimals_of(values.get(name) for row in rows for values in row.sizes.values()) for name in metrics
    }
    lines = [
        "### Quality per size",
        "",
        line(["cell", "size", *metrics]),
        line(["---", "---", *["---:"] * len(metrics)]),
    ]
    for row in rows:
        for size, values in row.sizes.items():
            shown = [fixed(values.get(name), decimals[name]) for name in metrics]
            lines.append(line([markdown_cell(row.label), markdown_cell(size), *shown]))
    return [*lines, ""]


def size_lines(comparison: Comparison) -> Iterator[str]:
    """For a terminal: one line per cell and metric, the largest size first."""
    metrics = size_metrics(comparison)
    for row in sized_rows(comparison):
        for name in metrics:
            values = {size: found[name] for size, found in row.sizes.items() if name in found}
            decimals = decimals_of(values.values())
            shown = ", ".join(f"{size} {fixed(value, decimals)}" for size, value in values.items())
            yield f"{row.label}, {name} per size: {shown}"
