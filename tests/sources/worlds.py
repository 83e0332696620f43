"""Cells that really trained, recorded in a real MLflow database by the pipeline's own recorders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tasks.artifacts import Artifact, ArtifactStore
from tasks.methods import Source, parse_method
from tasks.models.values import BaseModel
from tasks.records import Context, describe_cell, record_training
from tasks.registry.values import CodeState
from tasks.sources import Finder, Search
from tasks.tracking import Run as Journal
from tasks.tracking import RunRef, RunStatus, TrackingSettings, create_run
from tasks.tracking.shipper import Shipper
from tasks.training.recipe import recipe_of, write_down
from tasks.training.run import read_trained, request_for
from tasks.training.session import train_cell
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell
from tests.training.worlds import toy_cell

LORA: dict[str, Any] = {"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}
FULL: dict[str, Any] = {"kind": "full", "learning_rate": 1e-3}
SHORT = TrainingSettings(max_steps=3, per_device_train_batch_size=4)
SHARED = Context(experiment="toy", settings={}, code=CodeState(version="0.1", code_digest="c" * 64))


class Record(NamedTuple):
    """Where two trained cells, `lora` and `full`, lie and are recorded, with runs that left no weights beside them."""

    base: BaseModel
    store: ArtifactStore
    tracking: TrackingSettings
    runs: dict[str, str]
    """What the run is about -> its id in MLflow."""

    def found(self, reference: str, store: ArtifactStore | None = None) -> Source:
        """What a LoRA with this `init_from` goes on from; `store`: of another machine."""
        method = parse_method(LORA | {"init_from": reference})
        return finder_for(self.base, self.tracking, store or self.store).sources_of(method)["init_from"]


def finder_for(base: BaseModel, tracking: TrackingSettings, store: ArtifactStore) -> Finder:
    return Finder(base, Search(tracking, store, no_embedded_model))


def no_embedded_model() -> Path:
    raise AssertionError("nobody asked for the embedded model")


def trained_in(store: ArtifactStore, cell: Cell) -> Artifact:
    """The cell's `train` artifact, as the pipeline and its worker make it."""

    def build(folder: Path) -> None:
        work = store.root.parent / "work" / cell.fingerprint
        work.mkdir(parents=True)
        train_cell(request_for(cell, work, folder))
        write_down(recipe_of(cell), folder)

    return store.make("train", cell.fingerprint, build)


def make_record(folder: Path, base: BaseModel, tokens: Artifact, uri: str) -> Record:
    tracking, store = TrackingSettings(uri=uri, flush_seconds=120), ArtifactStore(folder / "artifacts")
    lora, full, none = (toy_cell(base, tokens, method, SHORT) for method in (LORA, FULL, {"kind": "none"}))
    refs: dict[str, RunRef] = {}

    def run(name: str, *writers: Callable[[RunRef], None], status: RunStatus | None = "FINISHED") -> None:
        refs[name] = create_run(folder / "spool", name=name, experiment="toy", parent=refs.get("comparison"))
        for write in writers:
            write(refs[name])
        if status:
            Journal(refs[name]).finish(status)

    def described(cell: Cell) -> Callable[[RunRef], None]:
        return lambda ref: describe_cell(cell, ref, SHARED)

    def recorded(cell: Cell) -> Callable[[RunRef], None]:
        return lambda ref: record_training(read_trained(cell, trained_in(store, cell)), ref)

    with Shipper(tracking, folder / "spool", folder / "mlflow") as shipper:
        run("comparison")
        run("lora", described(lora), recorded(lora))
        run("full", described(full), recorded(full))
        run("none", described(none))
        run("training", described(lora), status=None)
        run("failed", described(lora), status="FAILED")
        shipper.flush(120)
        runs = {name: shipper.run_id(ref) or "" for name, ref in refs.items()}
    return Record(base, store, tracking, runs)
