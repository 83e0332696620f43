"""Step 6: one table over all cells, as text, numbers and a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.comparison.compare import compare as build_comparison
from tasks.comparison.report import write_report
from tasks.comparison.values import Comparison, MetricColumn
from tasks.foundation.values import Value
from tasks.records import CellOutcome, comparison_rows, lead_back, record_comparison
from tasks.workspace import Place, reporting

log = logging.getLogger(__name__)


class Yardstick(Value):
    """By which numbers the cells are compared, and which one names the winner."""

    name: str
    columns: tuple[MetricColumn, ...]
    metric: str


@task(name="compare", persist_result=False)
def compare(outcomes: Sequence[CellOutcome], yardstick: Yardstick, place: Place) -> Comparison:
    """Rank the cells; write table, picture and samples to the report folder, to MLflow and to Prefect."""
    with reporting(place, "compare"):
        lead_back(outcomes)
        rows = comparison_rows(outcomes)
        digest = next((row.rows_digest for row in rows if row.rows_digest), "")
        comparison = build_comparison(yardstick.name, rows, yardstick.columns, yardstick.metric, digest)
        samples = {o.cell.label: o.evaluated.samples for o in outcomes if o.evaluated}
        folder = place.workspace.report(yardstick.name) / "comparison"
        markdown = write_report(comparison, samples, folder)
        record_comparison(comparison, folder, place.run)
        show_in_prefect(yardstick.name, markdown)
        return comparison


def show_in_prefect(name: str, markdown: str) -> None:
    """Put the table on Prefect's page. It is a courtesy: no comparison is lost for want of Prefect's server."""
    key = "comparison-" + "".join(c if c.isalnum() and c.isascii() else "-" for c in name)
    try:
        create_markdown_artifact(markdown, key=key, description=f"Comparison of {name}")
    except Exception as error:  # whatever keeps Prefect from taking it
        log.warning("Prefect's page does not show the comparison: %s: %s", type(error).__name__, error)
