"""The columns that all renderings share, as text, with the order in which a narrow terminal lets them go."""

from __future__ import annotations

from tasks.comparison.units import decimals_of, fixed, short_bytes, short_count, short_seconds
from tasks.comparison.values import Comparison, ComparisonRow
from tasks.foundation.values import Value

ALWAYS = 0


class Column(Value):
    """One column of text: a full title for documents, a short one for terminals."""

    title: str
    short: str
    cells: tuple[str, ...]
    """One per row of the comparison."""
    weight: int
    """Larger ones are left out first where there is no room; `ALWAYS` ones stay."""


def columns_of(comparison: Comparison) -> list[Column]:
    """Metrics with their differences to the base, then what the cell cost; forgetting where it was measured."""
    return [*_quality(comparison), *_cost(comparison)]


def _quality(comparison: Comparison) -> list[Column]:
    columns: list[Column] = []
    for place, name in enumerate(comparison.metrics):
        decides = name == comparison.metric
        decimals = decimals_of(row.metrics.get(name) for row in comparison.rows)
        values = tuple(fixed(row.metrics.get(name), decimals) for row in comparison.rows)
        deltas = tuple(fixed(row.delta.get(name), decimals, sign=True) for row in comparison.rows)
        better = "↓" if name in comparison.lower_is_better else "↑"
        columns.append(
            Column(title=f"{name} {better}", short=name, cells=values, weight=ALWAYS if decides else 10 + place)
        )
        columns.append(Column(title=f"Δ {name}", short="Δbase", cells=deltas, weight=5 if decides else 100 + place))
    return columns


def _cost(comparison: Comparison) -> list[Column]:
    rows = comparison.rows
    columns = [
        _column("trainable parameters", "params", 1, [short_count(row.trainable_parameters) for row in rows]),
        _column("peak memory", "memory", 40, [short_bytes(row.peak_memory_bytes) for row in rows]),
        _column("train time", "time", 3, [short_seconds(row.train_seconds) for row in rows]),
        _column("tokens/s", "tok/s", 50, [short_count(row.tokens_per_second) for row in rows]),
        _column("weights", "size", 45, [short_bytes(row.weights_bytes) for row in rows]),
        _column("merge", "merge", 60, [_merge(row) for row in rows]),
    ]
    if any(row.forgetting is not None for row in rows):
        forgetting = [fixed(row.forgetting, 3, sign=True) for row in rows]
        columns.insert(0, _column("forgetting ↓", "forget", 20, forgetting))
    return columns


def _column(title: str, short: str, weight: int, cells: list[str]) -> Column:
    return Column(title=title, short=short, cells=tuple(cells), weight=weight)


def _merge(row: ComparisonRow) -> str:
    words = {"merged": "yes", "cannot": "no", "disabled": "off", "not_needed": "-"}
    return words.get(row.merge, row.merge)
