"""Order the cells, measure each against the untuned base, and name the winner."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.comparison.values import Comparison, ComparisonRow, MetricColumn
from tasks.foundation.errors import ConfigError, IntegrityError

BASELINE = "none"
"""Kind of the untuned base. Asked as the data section says it is what every other row is measured against; with a hard
prompt it is a row of its own. Neither can win: nothing was trained, so there is nothing to register."""
CHAMPION_KIND = "champion"
"""Kind of what production serves now, asked the same: it is registered already, so it cannot win either."""
_NO_WINNERS = frozenset({BASELINE, CHAMPION_KIND})


def compare(
    name: str, rows: Sequence[ComparisonRow], columns: Sequence[MetricColumn], metric: str, rows_digest: str
) -> Comparison:
    """One comparison over all cells, best first by `metric`, failed cells last, equal ones by label.

    A row without a finite value of `metric` is shown after those that have one, and cannot win.

    Raises:
        ConfigError: `metric` is not among the columns.
        IntegrityError: two rows share a label, or a row was scored on other rows than `rows_digest`.
    """
    deciding = _deciding(columns, metric)
    _require_one_yardstick(rows, rows_digest)
    baseline = next((row for row in rows if is_baseline(row) and row.status != "failed"), None)
    ordered = sorted((_with_delta(row, baseline, columns) for row in rows), key=lambda row: _rank(row, deciding))
    return Comparison(
        name=name,
        metric=metric,
        higher_is_better=deciding.higher_is_better,
        metrics=tuple(column.name for column in columns),
        lower_is_better=tuple(column.name for column in columns if not column.higher_is_better),
        rows=tuple(ordered),
        winner=next((row.label for row in ordered if _may_win(row, metric)), None),
        rows_digest=rows_digest,
    )


def _may_win(row: ComparisonRow, metric: str) -> bool:
    return row.kind not in _NO_WINNERS and _score(row, metric) is not None


def is_baseline(row: ComparisonRow) -> bool:
    """Whether it is the untuned base without a hard prompt."""
    return row.kind == BASELINE and not row.hard_prompt


def _deciding(columns: Sequence[MetricColumn], metric: str) -> MetricColumn:
    for column in columns:
        if column.name == metric:
            return column
    raise ConfigError(
        f"the winner cannot be named by {metric!r}: it is not measured",
        where="registry.metric",
        allowed=", ".join(column.name for column in columns),
        fix=f"Add {metric!r} to evaluation.metrics or choose one of them",
    )


def _require_one_yardstick(rows: Sequence[ComparisonRow], rows_digest: str) -> None:
    labels: set[str] = set()
    for row in rows:
        if row.label in labels:
            raise IntegrityError(f"two cells are called {row.label!r}", fix="Give one of the methods its own `name`")
        labels.add(row.label)
        if row.metrics and row.rows_digest != rows_digest:
            raise IntegrityError(
                f"{row.label} was scored on other evaluation rows ({row.rows_digest[:12] or 'unknown'}) "
                f"than the comparison ({rows_digest[:12]})",
                fix="Evaluate all cells on the same rows",
            )


def _with_delta(row: ComparisonRow, baseline: ComparisonRow | None, columns: Sequence[MetricColumn]) -> ComparisonRow:
    if baseline is None or row.label == baseline.label:
        return row.model_copy(update={"delta": {}})
    pairs = ((column.name, _score(row, column.name), _score(baseline, column.name)) for column in columns)
    delta = {name: mine - base for name, mine, base in pairs if mine is not None and base is not None}
    return row.model_copy(update={"delta": delta})


def _score(row: ComparisonRow, metric: str) -> float | None:
    """The row's value, where it succeeded and the value is a number."""
    value = row.metrics.get(metric)
    return value if row.status != "failed" and value is not None and math.isfinite(value) else None


def _rank(row: ComparisonRow, deciding: MetricColumn) -> tuple[int, float, str]:
    """Sort key: measured rows best first, then those without the metric, then the failed ones."""
    score = _score(row, deciding.name)
    if score is None:
        return (2 if row.status == "failed" else 1, 0.0, row.label)
    return (0, -score if deciding.higher_is_better else score, row.label)
