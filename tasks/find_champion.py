"""Step 5b: the champion of the registered model, to be asked what the challengers are asked."""

from __future__ import annotations

import logging

from prefect import task

from tasks.foundation.errors import TunelineError
from tasks.foundation.values import Value
from tasks.merging.values import MergedCell
from tasks.models.values import BaseModel
from tasks.records import ChampionCell, Context, describe_run
from tasks.sources.champion import champion_in
from tasks.tracking import Run, TrackingSettings
from tasks.workspace import Place, open_cell, reporting

log = logging.getLogger(__name__)

_LAST = 1_000_000
"""Its place on the board: below all cells."""


class PlacedChampion(Value):
    """The champion and where it reports to; no place where there is nobody to ask."""

    cell: ChampionCell
    place: Place | None = None


@task(name="find champion", persist_result=False)
def find_champion(
    model: str, base: BaseModel, tracking: TrackingSettings, shared: Context, place: Place
) -> PlacedChampion:
    """What production serves now, with a run of its own; or why it cannot be asked, which no gate takes for a pass."""
    from tasks.tracking.lookup import Lookup

    with reporting(place, "prepare"):
        try:
            found = champion_in(model, base, Lookup(tracking), place.workspace.store)
        except TunelineError as error:
            log.warning("the champion of %s is not asked: %s", model, error)
            return PlacedChampion(cell=ChampionCell(missing=f"the champion could not be asked: {error.what}"))
        if isinstance(found, str):
            return PlacedChampion(cell=ChampionCell(missing=found))
        opened = open_cell(place, found.candidate.label, _LAST, shared.experiment)
        describe_run(opened.run, shared)
        Run(opened.run).set_tags(
            {"tuneline.label": opened.label, "tuneline.champion": f"models:/{model}/{found.version}"}
        )
        merged = MergedCell(outcome="not_needed", candidate=found.candidate, weights_digest=found.weights_digest)
        cell = ChampionCell(version=found.version, package_digest=found.package_digest, merged=merged, run=opened.run)
        return PlacedChampion(cell=cell, place=opened)
