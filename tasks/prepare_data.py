"""Step 1: rows in one canonical form, counted, checked and split."""

from __future__ import annotations

from prefect import task
from prefect.client.schemas import State

from tasks.data.prepare import prepare, prepare_key, read_prepared
from tasks.data.settings import DataSettings
from tasks.data.values import PreparedData
from tasks.launch.children import run_in_child
from tasks.records import record_data
from tasks.states import finished
from tasks.workspace import Place, reporting


@task(name="prepare data", task_run_name="prepare data", persist_result=False)
def prepare_data(settings: DataSettings, place: Place) -> PreparedData | State[PreparedData]:
    """Read, validate, deduplicate and split; or adopt what was made from the same bytes and settings before."""
    with reporting(place, "prepare"):
        quarantine = place.board.parent / "quarantine.jsonl"
        artifact = place.workspace.store.make(
            "prepare",
            prepare_key(settings),
            lambda folder: run_in_child(prepare, settings, folder, quarantine),
            made_by=place.run.key,
        )
        prepared = read_prepared(artifact)
        record_data(prepared, [place.run])
        return finished(prepared, cached=artifact.cached)
