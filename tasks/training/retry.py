"""Out of memory: the same cell once more with half the micro-batch, and what was found out is remembered.

Rows, windows and the global batch stay (the order of rows depends on their product only), so the run is the one that
was asked for up to rounding and the random numbers of dropout. It gets the fingerprint of what really ran.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import Artifact, write_durably
from tasks.foundation.errors import BatchTooLargeError
from tasks.foundation.values import Value
from tasks.launch.slots import current_slots
from tasks.training.identity import fingerprint
from tasks.training.lineage import facts_of
from tasks.training.memory import MicroBatch, smaller_micro_batch
from tasks.training.run import clean_up
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell

log = logging.getLogger(__name__)

FILE = "out_of_memory.json"


class Finding(Value):
    """`<work>/out_of_memory.json`: what to try instead of what did not fit. Delete it to try that again."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    reason: str
    """Why the larger one is left out."""


def train_fitting(
    cell: Cell, works: Path, attempt: Callable[[Cell], Artifact], announce: Callable[[Cell, str], None]
) -> tuple[Cell, Artifact]:
    """Train; with `auto_micro_batch`, as long as memory runs out again with half the micro-batch.

    Args:
        cell: as it was asked for.
        works: where the work folders of all cells lie, by fingerprint.
        attempt: trains a cell, from the start where nothing was trained with its micro-batch before.
        announce: is told of a cell that is about to run instead, and why.

    Raises:
        BatchTooLargeError: even one sequence is too much, or nothing smaller may be tried.
    """
    current, reason = _remembered(cell, works / cell.fingerprint)
    while True:
        if current != cell:
            announce(current, reason)
        try:
            return current, attempt(current)
        except BatchTooLargeError as error:
            smaller = smaller_micro_batch(current.training)
            if smaller is None or not cell.training.auto_micro_batch:
                raise _beside_others(error) from error
            clean_up(works / current.fingerprint)
            current, reason = with_micro_batch(current, smaller), error.what
            _remember(smaller, reason, works / cell.fingerprint)


def with_micro_batch(cell: Cell, micro: MicroBatch) -> Cell:
    """The cell that trains with this micro-batch, under its own name."""
    update = {"per_device_train_batch_size": micro.sequences, "gradient_accumulation_steps": micro.steps}
    training = TrainingSettings.model_validate(cell.training.model_dump() | update)
    resized = cell.model_copy(update={"training": training})
    return resized.model_copy(update={"fingerprint": fingerprint(facts_of(resized))})


def micro_batch_text(training: TrainingSettings) -> str:
    """`4 x 2`: sequences of a micro-step x micro-steps of an optimiser step, on each rank."""
    return f"{training.per_device_train_batch_size} x {training.gradient_accumulation_steps}"


def _remember(smaller: MicroBatch, reason: str, work: Path) -> None:
    finding = Finding(
        per_device_train_batch_size=smaller.sequences, gradient_accumulation_steps=smaller.steps, reason=reason
    )
    work.mkdir(parents=True, exist_ok=True)
    write_durably(work / FILE, finding.model_dump_json(indent=2))


def _remembered(cell: Cell, work: Path) -> tuple[Cell, str]:
    """The cell to begin with, and why it is not the one that was asked for."""
    path = work / FILE
    if not cell.training.auto_micro_batch or not path.exists():
        return cell, ""
    try:
        finding = Finding.model_validate_json(path.read_bytes())
    except ValidationError:
        log.warning("%s is damaged: the micro-batch that fits is looked for again", path)
        return cell, ""
    micro = MicroBatch(finding.per_device_train_batch_size, finding.gradient_accumulation_steps)
    return with_micro_batch(cell, micro), finding.reason


def _beside_others(error: BatchTooLargeError) -> BatchTooLargeError:
    """Memory may have been short since other cells trained at the same time: that is to be known as well."""
    if (count := current_slots().count) == 1:
        return error
    fix = f"{error.fix}; or set distributed.parallel_cells=1, since up to {count} cells share this machine's memory"
    return BatchTooLargeError(error.what, where=error.where, allowed=error.allowed, fix=fix)
