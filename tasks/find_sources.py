"""Step 0b: the earlier results that methods go on from, learn from or compose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prefect import task

from tasks.methods import parse_method
from tasks.models.values import BaseModel
from tasks.sources import Finder, Search
from tasks.sources.embedded import embedded_folder
from tasks.tracking.settings import TrackingSettings
from tasks.training.plan import CellSpec
from tasks.workspace import Place, reporting


@task(name="find sources", task_run_name="find sources", persist_result=False)
def find_sources(
    specs: Sequence[CellSpec], base: BaseModel, tracking: TrackingSettings, place: Place
) -> tuple[CellSpec, ...]:
    """The same cells with what their methods name, found and digested before any weight is loaded."""
    with reporting(place, "prepare") as reporter:
        store = place.workspace.store
        finder = Finder(
            base, Search(tracking, store, partial(embedded_folder, store, reporter.progress, place.run.key))
        )
        return tuple(
            spec.model_copy(update={"sources": finder.sources_of(parse_method(spec.method))}) for spec in specs
        )
