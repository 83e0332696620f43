"""The comparison as a picture: a bar per cell and metric, and quality against the number of trained parameters."""

from __future__ import annotations

import io
import math

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.ticker import NullFormatter

from tasks.comparison.compare import BASELINE, is_baseline
from tasks.comparison.units import decimals_of, fixed, short_count
from tasks.comparison.values import Comparison, ComparisonRow

_MOST_METRICS = 3
_WINNER, _OTHER, _BASE = "#1b7f4d", "#4878a8", "#9a9a9a"
_PLACES = ((7, 0, "left"), (-7, 0, "right"), (0, 9, "center"), (0, -9, "center"), (7, 9, "left"), (7, -9, "left"))
"""Where a point's name may stand: offset in points from the point, and its alignment."""


def drawn(comparison: Comparison) -> bytes:
    """A PNG: bars for the deciding metric and up to two more, and a scatter over trainable parameters.

    The same comparison gives the same bytes. Cells without a score are named under the picture, not drawn.
    """
    metrics = _chosen_metrics(comparison)
    rows = [row for row in comparison.rows if any(_value(row, name) is not None for name in metrics)]
    bars_height = 0.9 + 0.3 * max(len(rows), 2)
    figure = Figure(figsize=(10, bars_height + 4.2), dpi=110, layout=ConstrainedLayoutEngine(hspace=0.06))
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, len(metrics), height_ratios=(bars_height, 3.6))
    for place, name in enumerate(metrics):
        _bars(figure.add_subplot(grid[0, place]), comparison, rows, name, named=place == 0)
    scatter = figure.add_subplot(grid[1, :])
    _scatter(scatter, comparison, rows)
    _titles(figure, comparison, rows)
    canvas.draw()
    _name_points(scatter, comparison, rows)
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def _chosen_metrics(comparison: Comparison) -> list[str]:
    others = [name for name in comparison.metrics if name != comparison.metric]
    return [comparison.metric, *others][:_MOST_METRICS]


def _value(row: ComparisonRow, metric: str) -> float | None:
    value = row.metrics.get(metric)
    return value if row.status != "failed" and value is not None and math.isfinite(value) else None


def _colour(comparison: Comparison, row: ComparisonRow) -> str:
    if row.label == comparison.winner:
        return _WINNER
    return _BASE if row.kind == BASELINE else _OTHER


def _short(label: str) -> str:
    return label if len(label) <= 26 else f"{label[:25]}…"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _bars(axes: Axes, comparison: Comparison, rows: list[ComparisonRow], metric: str, *, named: bool) -> None:
    values = [_value(row, metric) for row in rows]
    decimals = decimals_of(values)
    lengths = [value if value is not None else 0.0 for value in values]
    bars = axes.barh(range(len(rows)), lengths, height=0.7, color=[_colour(comparison, row) for row in rows])
    axes.bar_label(bars, labels=[fixed(value, decimals) for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [_short(row.label) if named else "" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(left=False)
    axes.margins(x=0.22)
    direction = "lower" if metric in comparison.lower_is_better else "higher"
    axes.set_title(f"{metric} ({direction} is better)", fontsize=10)
    _plain(axes)


def _points(comparison: Comparison, rows: list[ComparisonRow]) -> list[tuple[float, float, ComparisonRow]]:
    placed = ((row.trainable_parameters, _value(row, comparison.metric), row) for row in rows if row.kind != BASELINE)
    return [(float(size), value, row) for size, value, row in placed if size and value is not None]


def _scatter(axes: Axes, comparison: Comparison, rows: list[ComparisonRow]) -> None:
    points = _points(comparison, rows)
    axes.set_xscale("log")
    for size, value, row in points:
        wins = row.label == comparison.winner
        axes.scatter(size, value, s=42, color=_colour(comparison, row), zorder=4 if wins else 3)
    base = next((_value(row, comparison.metric) for row in rows if is_baseline(row)), None)
    if base is not None:
        axes.axhline(base, color=_BASE, linestyle="--", linewidth=1, label="untuned base")
        axes.legend(loc="best", fontsize=8, frameon=False)
    if points:
        axes.set_xlim(min(size for size, _, _ in points) / 4, max(size for size, _, _ in points) * 4)
    axes.margins(y=0.18)
    axes.xaxis.set_major_formatter(lambda size, _: short_count(size))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("trainable parameters (log scale)", fontsize=9)
    axes.set_ylabel(comparison.metric, fontsize=9)
    axes.set_title(f"{comparison.metric} against trainable parameters", fontsize=10)
    axes.grid(visible=True, alpha=0.25)
    _plain(axes)


def _titles(figure: Figure, comparison: Comparison, rows: list[ComparisonRow]) -> None:
    figure.suptitle(comparison.name, fontsize=12, fontweight="bold")
    missing = [_short(row.label) for row in comparison.rows if row not in rows]
    if missing:
        figure.supxlabel(f"without a score: {', '.join(missing)}", fontsize=8, color="#a03030", wrap=True)


def _name_points(axes: Axes, comparison: Comparison, rows: list[ComparisonRow]) -> None:
    """Write each name where it covers no other name or point: the first free place around the point, or none."""
    points = _points(comparison, rows)
    taken = [_point_box(axes, size, value) for size, value, _ in points]
    frame = axes.get_window_extent()
    for place, (size, value, row) in enumerate(points):
        for dx, dy, side in _PLACES:
            name = axes.annotate(
                _short(row.label), (size, value), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=8
            )
            box = _box(name)
            inside = box[0] >= frame.x0 and box[2] <= frame.x1 and box[1] >= frame.y0 and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for at, other in enumerate(taken) if at != place):
                taken.append(box)
                break
            name.remove()


_Box = tuple[float, float, float, float]
"""Left, bottom, right, top in pixels."""


def _box(name: Annotation) -> _Box:
    extent = name.get_window_extent()
    return (extent.x0, extent.y0, extent.x1, extent.y1)


def _point_box(axes: Axes, size: float, value: float) -> _Box:
    x, y = axes.transData.transform((size, value))
    return (x - 5, y - 5, x + 5, y + 5)


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
