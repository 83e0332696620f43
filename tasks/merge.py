"""Step 4: the adapter becomes part of the base, and that is proven; or it is said why not."""

from __future__ import annotations

from prefect import task
from prefect.client.schemas import State

from tasks.launch.children import run_in_child
from tasks.merging.merge import merge as run_merge
from tasks.merging.merge import merge_key
from tasks.merging.outcome import merged_cell, unmerged_cell
from tasks.merging.settings import MergeSettings
from tasks.merging.values import MergedCell
from tasks.records import record_merge
from tasks.states import finished
from tasks.training.values import TrainedCell
from tasks.workspace import Place, working


@task(name="merge", task_run_name="merge {place.label}", persist_result=False)
def merge(trained: TrainedCell, settings: MergeSettings, place: Place) -> MergedCell | State[MergedCell]:
    """Merge into the float base and compare logits; a failed proof fails the cell and leaves the adapter as it was."""
    candidate, tokens = trained.candidate, trained.cell.tokens
    if unmerged := unmerged_cell(candidate, trained.weights_digest, settings):
        record_merge(unmerged, place.run)
        return unmerged
    with working(place, "merge"):
        artifact = place.workspace.store.make(
            "merge",
            merge_key(candidate, tokens, trained.weights_digest, settings),
            lambda folder: run_in_child(run_merge, candidate, tokens, settings, folder),
            made_by=place.run.key,
        )
        merged = merged_cell(candidate, trained.weights_digest, artifact)
        record_merge(merged, place.run)
        return finished(merged, cached=artifact.cached)
