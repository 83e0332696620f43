"""What becomes of a cell whose step Prefect broke off before the step could close the cell's run."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from prefect import flow, task
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.outcome import outcome_of
from tasks.plan import PlannedCell
from tasks.records import CellOutcome
from tasks.workspace import Place
from tests.records.worlds import LORA, World
from tests.workspace.worlds import arrived, place_in


@task(persist_result=False)
def broken_off() -> None:
    raise ValueError("the engine gave up")


def compare_in(folder: Path, prefect_server: str) -> tuple[CellOutcome, Place]:
    """A flow in which every step of a cell is broken off."""
    place = place_in(folder / "runs")
    planned = PlannedCell(cell=World(folder).cell(LORA), place=place)

    @flow(persist_result=False)
    def compare() -> CellOutcome:
        return outcome_of(planned, [broken_off.submit() for _ in range(3)], run_id="")

    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        return compare(), place


def test_a_cell_that_prefect_broke_off_is_a_failed_outcome_and_its_run_is_closed(
    tmp_path: Path, prefect_server: str
) -> None:
    """In a process of its own: what a flow leaves for the end of its process kills every later fork."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        outcome, place = process.submit(compare_in, tmp_path, prefect_server).result()
    assert outcome.error and "the engine gave up" in str(outcome.error.error())
    run = arrived(place)
    assert run.status == "FAILED"
    assert "the engine gave up" in run.tags["tuneline.error"]
