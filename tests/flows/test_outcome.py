"""What becomes of a cell whose step Prefect broke off before the step could close the cell's run."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.outcome import outcome_of
from tasks.plan import PlannedCell
from tasks.records import CellOutcome
from tests.records.worlds import LORA, World
from tests.workspace.worlds import arrived, place_in


@task(persist_result=False)
def broken_off() -> None:
    raise ValueError("the engine gave up")


def test_a_cell_that_prefect_broke_off_is_a_failed_outcome_and_its_run_is_closed(
    tmp_path: Path, prefect_server: str
) -> None:
    place = place_in(tmp_path / "runs")
    planned = PlannedCell(cell=World(tmp_path).cell(LORA), place=place)

    @flow(persist_result=False)
    def compare() -> CellOutcome:
        return outcome_of(planned, [broken_off.submit() for _ in range(3)], run_id="")

    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        outcome = compare()

    assert outcome.error and "the engine gave up" in str(outcome.error.error())
    run = arrived(place)
    assert run.status == "FAILED"
    assert "the engine gave up" in run.tags["tuneline.error"]
