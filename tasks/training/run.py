"""The pipeline's side of the file contract: write the request, start the gang, watch its files, judge the outcome."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from tasks.artifacts import Artifact, write_durably
from tasks.foundation.digests import digest_tree
from tasks.foundation.errors import ErrorRecord, IntegrityError, RankError
from tasks.launch import GangJob, Launcher
from tasks.launch.gangs import current_gangs
from tasks.launch.slots import Devices
from tasks.methods import Candidate, parse_method
from tasks.training.identity import cell_facts
from tasks.training.recording import MetricLine, MetricsTail, Progress, read_progress
from tasks.training.values import Cell, TrainCost, TrainedCell, TrainRequest, TrainResult

_POLL_SECONDS = 0.2


class Watch:
    """Follows a worker's files and passes each new thing on once."""

    def __init__(
        self, work: Path, on_metrics: Callable[[list[MetricLine]], None], on_progress: Callable[[Progress], None]
    ) -> None:
        self._work = work
        self._on_metrics = on_metrics
        self._on_progress = on_progress
        self._metrics = MetricsTail(work / "metrics.jsonl")
        self._progress: Progress | None = None

    def look(self) -> None:
        """Pass on what is new. Before the first progress the metrics are those of an earlier attempt, not yet cut."""
        progress = read_progress(self._work / "progress.json")
        if progress and progress != self._progress:
            self._progress = progress
            self._on_progress(progress)
            if lines := self._metrics.new_lines():
                self._on_metrics(lines)

    def finish(self) -> None:
        """Pass on what is left."""
        self.look()
        if lines := self._metrics.new_lines():
            self._on_metrics(lines)


def request_for(cell: Cell, work: Path, output: Path) -> TrainRequest:
    """The worker's request; its identity holds the facts that made the cell's fingerprint."""
    facts = cell_facts(cell.base, cell.tokens, cell.method, cell.training, (cell.seed, cell.layout))
    return TrainRequest(cell=cell, work=work.absolute(), output=output.absolute(), identity=facts)


def train(request: TrainRequest, launcher: Launcher, devices: Devices, watch: Watch) -> None:
    """Run the worker on some devices to its end; on return `output` holds verified weights and a valid result.json.

    Raises:
        TunelineError: the cause that the worker recorded, or RankError when it died without a word.
        IntegrityError: the weights are not those that result.json names.
    """
    request.work.mkdir(parents=True, exist_ok=True)
    with FileLock(request.work / "lock"):
        failure = request.work / "failure.json"
        failure.unlink(missing_ok=True)
        (request.work / "progress.json").unlink(missing_ok=True)
        path = request.work / "request.json"
        write_durably(path, request.model_dump_json(indent=2))
        code = _supervise(_job(request, path, devices), launcher, watch)
        if code != 0:
            raise _cause(code, failure, request.work / "log.txt")
        check_output(request.output)


def _job(request: TrainRequest, path: Path, devices: Devices) -> GangJob:
    return GangJob(
        module="tasks.training.worker",
        request=path.absolute(),
        layout=request.cell.layout,
        name=f"tuneline {request.cell.label}",
        log=request.work / "log.txt",
        devices=devices,
        threads_per_rank=request.cell.training.threads_per_rank,
    )


def _supervise(job: GangJob, launcher: Launcher, watch: Watch) -> int:
    register = current_gangs()
    register.check()
    gang = launcher.start(job)
    with register.running(gang):
        while (code := gang.poll()) is None:
            register.check()
            watch.look()
            time.sleep(_POLL_SECONDS)
    watch.finish()
    register.check()
    return code


def _cause(code: int, failure: Path, log: Path) -> Exception:
    if failure.exists():
        return ErrorRecord.model_validate_json(failure.read_text(encoding="utf-8")).error()
    return RankError(
        f"a rank died (torchrun ended with {code}) and left no reason",
        where=str(log),
        fix="The end of this log says more; run it again to go on from the last checkpoint",
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


def read_trained(cell: Cell, artifact: Artifact) -> TrainedCell:
    """What the next steps need to know of a committed `train` artifact."""
    method = parse_method(cell.method)
    result = TrainResult.model_validate_json((artifact.path / "result.json").read_text(encoding="utf-8"))
    cost = TrainCost.model_validate_json((artifact.path / "cost.json").read_text(encoding="utf-8"))
    candidate = Candidate(
        label=cell.label,
        base=cell.base,
        method=cell.method,
        weights=artifact.path / method.info.holds,
        holds=method.info.holds,
    )
    return TrainedCell(cell=cell, artifact=artifact, candidate=candidate, result=result, cost=cost)
