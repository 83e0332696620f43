"""The pipeline's side of the file contract: write the request, start the gang, watch its files, judge the outcome."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from tasks.artifacts import Artifact
from tasks.foundation.digests import digest_tree
from tasks.foundation.errors import IntegrityError
from tasks.launch import GangJob, Launcher
from tasks.launch.slots import Devices
from tasks.methods import Candidate, parse_method
from tasks.training.adoption import take_over
from tasks.training.foresight import check_folders
from tasks.training.lineage import facts_of, write_card
from tasks.training.marks import marks_of
from tasks.training.recipe import recipe_of, write_down
from tasks.training.supervision import Watch, supervise
from tasks.training.values import Cell, TrainCost, TrainedCell, TrainRequest, TrainResult


def request_for(cell: Cell, work: Path, output: Path) -> TrainRequest:
    """The worker's request; its identity holds the facts that made the cell's fingerprint."""
    seen, facts = marks_of(cell.base, cell.tokens, cell.sources.values()), facts_of(cell)
    return TrainRequest(cell=cell, work=work.absolute(), output=output.absolute(), identity=facts, seen=seen)


def train(request: TrainRequest, launcher: Launcher, devices: Devices, watch: Watch) -> None:
    """Run the worker on some devices to its end; on return `output` holds verified weights and a valid result.json.

    Raises:
        TunelineError: the cause that the worker recorded, or RankError or HangError when it said none, again and again.
        ResourceError: a folder cannot be written, or what surely comes does not fit.
        IntegrityError: the weights are not those that result.json names.
    """
    check_folders(request)
    request.work.mkdir(parents=True, exist_ok=True)
    with FileLock(request.work / "lock"):
        write_card(request.cell, request.work)
        take_over(request)
        patient = request.model_copy(update={"loading_seconds": launcher.stall_seconds.loading})
        supervise(patient, _job(request, devices), launcher, watch)
        check_output(request.output)
        write_down(recipe_of(request.cell), request.output)


def _job(request: TrainRequest, devices: Devices) -> GangJob:
    return GangJob(
        module="tasks.training.worker",
        request=request.work.absolute() / "request.json",
        layout=request.cell.layout,
        name=f"tuneline {request.cell.label}",
        log=request.work / "log.txt",
        devices=devices,
        threads_per_rank=request.cell.training.threads_per_rank,
    )


def check_output(output: Path) -> None:
    """Success is more than exit code 0: a valid result.json whose weights are there, whole and not empty."""
    try:
        result = TrainResult.model_validate_json((output / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise IntegrityError(
            f"the worker left no valid result.json ({type(error).__name__})", where=str(output)
        ) from error
    folder = _weights_folder(output)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names or digest_tree(folder, names) != result.weights_digest:
        raise IntegrityError("the weights are not those that result.json names", where=str(folder))


def _weights_folder(output: Path) -> Path:
    return output / "adapter" if (output / "adapter").is_dir() else output / "model"


def clean_up(work: Path) -> None:
    """Drop the checkpoints of a cell whose artifact is committed; the log stays."""
    shutil.rmtree(work / "checkpoints", ignore_errors=True)


def untrained(cell: Cell) -> TrainedCell:
    """The base as it is, in the place of a trained cell."""
    return TrainedCell(
        cell=cell, candidate=Candidate(label=cell.label, base=cell.base, method=cell.method, holds="nothing")
    )


def read_result(folder: Path) -> TrainResult:
    """result.json of a committed `train` artifact."""
    return TrainResult.model_validate_json((folder / "result.json").read_text(encoding="utf-8"))


def read_trained(cell: Cell, artifact: Artifact) -> TrainedCell:
    """What the next steps need to know of a committed `train` artifact."""
    method = parse_method(cell.method)
    result = read_result(artifact.path)
    cost = TrainCost.model_validate_json((artifact.path / "cost.json").read_text(encoding="utf-8"))
    candidate = Candidate(
        label=cell.label,
        base=cell.base,
        method=cell.method,
        weights=artifact.path / method.holds,
        holds=method.holds,
    )
    return TrainedCell(cell=cell, artifact=artifact, candidate=candidate, result=result, cost=cost)
