"""Step 6: one table over all cells, as text, numbers and a picture."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from prefect import task

from tasks.comparison.compare import compare as build_comparison
from tasks.comparison.render import to_markdown, verdict
from tasks.comparison.report import PICTURE, written_report
from tasks.comparison.values import Comparison, MetricColumn
from tasks.foundation.values import Value
from tasks.page import artifact_key, linked, show
from tasks.records import (
    CellOutcome,
    ChampionCell,
    base_probe_loss,
    champion_rows,
    comparison_rows,
    lead_back,
    record_comparison,
)
from tasks.tracking import TrackingSettings, experiment_page, run_page
from tasks.workspace import Place, reporting


class Yardstick(Value):
    """By which numbers the cells are compared, and which one names the winner."""

    name: str
    columns: tuple[MetricColumn, ...]
    metric: str


@task(name="compare", task_run_name="compare {yardstick.name}", persist_result=False)
def compare(
    outcomes: Sequence[CellOutcome],
    champion: ChampionCell | None,
    yardstick: Yardstick,
    tracking: TrackingSettings,
    place: Place,
) -> Comparison:
    """Rank the cells and the champion; write table, picture and samples to the report folder, MLflow and Prefect."""
    with reporting(place, "compare"):
        lead_back(outcomes)
        rows = comparison_rows(outcomes) + champion_rows(champion, base_probe_loss(outcomes))
        digest = next((row.rows_digest for row in rows if row.rows_digest), "")
        comparison = build_comparison(yardstick.name, rows, yardstick.columns, yardstick.metric, digest)
        samples = {o.cell.label: o.evaluated.samples for o in outcomes if o.evaluated}
        folder = place.workspace.report(yardstick.name) / "comparison"
        with written_report(comparison, samples, folder) as report:
            record_comparison(comparison, report, place.run)
            picture = (folder / PICTURE).read_bytes()
        runs = {o.cell.label: o.run for o in outcomes}
        if champion and champion.merged and champion.run:
            runs[champion.merged.candidate.label] = champion.run
        links = {label: page for label, run in runs.items() if (page := run_page(tracking, run))}
        show_comparison(comparison, links, experiment_page(tracking, place.run), picture)
        return comparison


def show_comparison(comparison: Comparison, links: Mapping[str, str], all_runs: str | None, picture: bytes) -> None:
    """Put table and picture on Prefect's page; the picture within the document, since it has no address of its own."""
    runs = linked("All runs in MLflow", all_runs) if all_runs else "`tuneline ui` shows the runs in MLflow."
    drawn = f"![comparison](data:image/png;base64,{base64.b64encode(picture).decode()})"
    text = f"{to_markdown(comparison, links)}\n{runs}\n\n{drawn}\n"
    show(text, key=artifact_key("comparison", comparison.name), about=verdict(comparison))
