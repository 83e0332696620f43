"""One table over all cells: deltas, order, winner, and how it is shown. The public face of the package."""

from tasks.comparison.compare import compare
from tasks.comparison.render import to_csv, to_markdown, to_rich
from tasks.comparison.samples import side_by_side
from tasks.comparison.samples import to_markdown as samples_to_markdown
from tasks.comparison.values import Comparison, ComparisonRow, MetricColumn

__all__ = [
    "Comparison",
    "ComparisonRow",
    "MetricColumn",
    "compare",
    "samples_to_markdown",
    "side_by_side",
    "to_csv",
    "to_markdown",
    "to_rich",
]
