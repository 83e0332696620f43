"""Quality per size as a picture: a panel per cell and metric, with a point per size."""

from __future__ import annotations

import io
import math

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tasks.comparison.compare import is_baseline
from tasks.comparison.sizes import size_metrics, sized_rows
from tasks.comparison.values import Comparison, ComparisonRow

_LINE, _BASE = "#4878a8", "#9a9a9a"


def drawn_sizes(comparison: Comparison) -> bytes:
    """A PNG: cells below each other, metrics beside each other, sizes from the largest to the smallest.

    A metric has one scale, so that its curves can be compared.
    The same comparison gives the same bytes. There is at least one cell with sizes. The untuned base is a dashed line
    where it has the metric: a size below it is worse than nothing.
    """
    rows, metrics = sized_rows(comparison), size_metrics(comparison)
    figure = Figure(
        figsize=(max(5 * len(metrics), 6), 2.8 * len(rows) + 0.4), dpi=110, layout=ConstrainedLayoutEngine()
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(metrics), squeeze=False, sharey="col")
    base = next((row for row in comparison.rows if is_baseline(row)), None)
    for row, across in zip(rows, panels, strict=True):
        for name, axes in zip(metrics, across, strict=True):
            _panel(axes, row, name, None if base is None else base.metrics.get(name))
    figure.suptitle(f"{comparison.name}: quality per size", fontsize=12, fontweight="bold")
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def _panel(axes: Axes, row: ComparisonRow, metric: str, base: float | None) -> None:
    sizes = list(row.sizes)
    values = [row.sizes[size].get(metric, math.nan) for size in sizes]
    axes.plot(range(len(sizes)), values, color=_LINE, marker="o", markersize=4)
    if base is not None and math.isfinite(base):
        axes.axhline(base, color=_BASE, linestyle="--", linewidth=1, label="untuned base")
        axes.legend(loc="best", fontsize=8, frameon=False)
    axes.set_xticks(range(len(sizes)), sizes, rotation=30 if len(sizes) > 6 else 0, fontsize=8)
    axes.set_title(f"{row.label}: {metric}", fontsize=10)
    axes.grid(visible=True, alpha=0.25)
    axes.margins(y=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
