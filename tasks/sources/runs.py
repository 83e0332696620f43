"""An earlier result by the MLflow run of the cell that trained it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts import ArtifactStore
from tasks.foundation.digests import digest_tree, digest_value
from tasks.foundation.errors import ConfigError, IntegrityError, ModelError, TunelineError
from tasks.sources.reference import Reference
from tasks.training.recipe import RECIPE, Recipe, write_down
from tasks.training.run import read_result

if TYPE_CHECKING:
    from tasks.tracking.lookup import KnownRun, Lookup

STEP = "source"
"""Of the artifacts that were fetched from MLflow."""
_MOST_NAMED = 8
_WEIGHTS = "tuneline.weights_sha256"


def run_folder(reference: Reference, lookup: Lookup, store: ArtifactStore) -> tuple[Path, KnownRun]:
    """The folder of what a run trained: where this machine made it, or else fetched from the run's artifacts.

    Raises:
        ConfigError: there is no such run, it was deleted, still trains, or never trained anything.
        ModelError: its weights are neither here nor in MLflow.
        IntegrityError: what MLflow holds is not what was trained.
    """
    run = lookup.run(reference.text)
    if run is None:
        fix = "Take the id of a cell's run: comparison.csv and MLflow's page have it"
        raise ConfigError(f"MLflow knows no run {reference.text}", where=reference.where, fix=fix)
    if run.deleted:
        fix = f"Restore it (mlflow runs restore --run-id {run.run_id}), or name another"
        raise ConfigError(f"the run {run.run_id} was deleted in MLflow", where=reference.where, fix=fix)
    if (refusal := _without_weights(run, reference, lookup)) is not None:
        raise refusal
    return _made_here(run, store) or _fetched(run, reference, lookup, store), run


def _without_weights(run: KnownRun, reference: Reference, lookup: Lookup) -> TunelineError | None:
    """Why a run has nothing to go on from; None where it has trained to its end."""
    label, where = run.tags.get("tuneline.label", run.run_id), reference.where
    if "tuneline.cell" not in run.tags:
        below = [cell for cell in lookup.runs_below(run) if _WEIGHTS in cell.tags][:_MOST_NAMED]
        cells = ", ".join(f"{cell.run_id} ({cell.tags.get('tuneline.label', '')})" for cell in below)
        fix = f"Name one of its cells: {cells}" if cells else "Name the run of a cell"
        return ConfigError(f"the run {run.run_id} is not one of a cell", where=where, fix=fix)
    if run.tags.get("tuneline.method") == "none":
        fix = "Name the run of a cell that trained"
        return ConfigError(f"the run {run.run_id} ({label}) trained nothing", where=where, fix=fix)
    if _WEIGHTS in run.tags:
        return None
    if run.status in ("RUNNING", "SCHEDULED"):
        what = f"the run {run.run_id} ({label}) has not finished training"
        return ConfigError(what, where=where, fix="Wait for it; if its process is gone, run its experiment again")
    what = f"the run {run.run_id} ({label}) ended as {run.status} before it left weights"
    return ConfigError(what, where=where, fix="Run its experiment again: it goes on from its last checkpoint")


def _made_here(run: KnownRun, store: ArtifactStore) -> Path | None:
    """The `train` artifact of the run's cell, if it holds the very bytes: another machine's may differ."""
    made = store.find("train", run.tags["tuneline.cell"])
    same = made and read_result(made.path).weights_digest == run.tags[_WEIGHTS]
    return made.path if made and same else None


def _fetched(run: KnownRun, reference: Reference, lookup: Lookup, store: ArtifactStore) -> Path:
    def fetch(folder: Path) -> None:
        adapter = lookup.download(run.run_id, "adapter", folder)
        if adapter is None:
            raise ModelError(
                f"the weights of run {run.run_id} are neither in {store.root} nor in MLflow, which gets adapters only",
                where=reference.where,
                fix="Name the model's folder, a registered version of it, or the TUNELINE_RUNS that trained it",
            )
        if digest_tree(adapter, [path.name for path in adapter.glob("*.safetensors")]) != digest:
            what = f"the adapter that MLflow holds for run {run.run_id} is not the one that it trained"
            raise IntegrityError(what, where=reference.where, fix="Name another run or a folder")
        recipe = lookup.download(run.run_id, f"train/{RECIPE}", folder / ".down")
        if recipe is None:
            write_down(Recipe(base_digest=run.tags.get("tuneline.base_digest", "")), folder)
        else:
            recipe.replace(folder / RECIPE)
        shutil.rmtree(folder / ".down", ignore_errors=True)

    digest = run.tags[_WEIGHTS]
    return store.make(STEP, digest_value({"run": run.run_id, "weights": digest}), fetch).path
