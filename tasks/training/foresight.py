"""What training will write, against the room that there is: asked before anything is computed; and a full disk, told.

Free bytes are those that the file system names. A quota that it does not count among them is met while training:
the last checkpoint stays, and the run ends with 20.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.foundation.disk import folder_bytes, free_bytes, nearest_existing, write_refusal
from tasks.foundation.errors import ResourceError, is_out_of_memory, shortage
from tasks.methods import parse_method
from tasks.training.failing import FAILURE, read_failure
from tasks.training.values import Cell, TrainRequest

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

CHECKPOINTS: Final = "checkpoints"
"""Folder of the checkpoints below `work`."""
_STATE_BYTES: Final = {"adamw_torch": 8, "adamw_torch_fused": 8, "paged_adamw_8bit": 2, "adafactor": 0, "sgd": 0}
"""What the optimiser keeps of each trained parameter: two float32 moments, two of 8 bits, sums of rows and columns."""
_DEEPSPEED_BYTES: Final = 8
"""DeepSpeed keeps the weights once more, and a float32 master of each."""
_STORED_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_MAKE_ROOM: Final = (
    "Free space, move the runs folder with TUNELINE_RUNS, or lower training.save_total_limit; then run it again"
)
_BESIDES_BYTES: Final = 1 << 20
"""Logs, metrics, random states and manifests."""


def check_folders(request: TrainRequest) -> None:
    """Refuse folders that cannot be written or hold what surely comes, before a rank is started.

    Raises:
        ResourceError: naming the folder.
    """
    for folder in (request.work, request.output):
        if refusal := write_refusal(folder):
            fix = f"Give write permission for {nearest_existing(folder)}, or move the runs folder with TUNELINE_RUNS"
            raise ResourceError(f"cannot be written: {refusal}", where=str(folder), fix=fix)
    _refuse_too_much({request.output: _model_bytes(request.cell), request.work: _BESIDES_BYTES})


def check_room(request: TrainRequest, model: nn.Module) -> None:
    """Refuse a run whose checkpoints and weights will not fit, when what trains is known and before the first step.

    Rank 0 asks for all: they write into the same folders.

    Raises:
        ResourceError: with the bytes that are needed and free, and the folder.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        return
    from tasks.training.shards import element_count

    cell = request.cell
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(element_count(parameter) * parameter.element_size() for parameter in trained)
    states = sum(map(element_count, trained)) * _state_bytes(cell)
    _refuse_large_files(max(weights, states if cell.layout.engine != "deepspeed" else 0), request)
    checkpoints = request.work / CHECKPOINTS
    wanted = (weights + states) * checkpoints_at_once(cell) - folder_bytes(checkpoints)
    result = _model_bytes(cell) or weights
    log.info("one checkpoint takes %d bytes, the result %d", weights + states, result)
    _refuse_too_much({request.work: max(wanted, 0) + _BESIDES_BYTES, request.output: result})


def checkpoints_at_once(cell: Cell) -> int:
    """Those that are kept, the best one where it is kept as well, and the one that is being written."""
    settings = cell.training
    most = settings.save_total_limit + settings.keep_best + 1
    return min(most, -(-settings.max_steps // settings.save_steps)) if settings.max_steps else most


def full_disk(error: Exception, request: TrainRequest) -> ResourceError | None:
    """What a rank says of its own end by a full disk; None for other ends.

    The checkpoint that could not be written is removed; the ones before it stay.
    """
    if shortage(error) is None or is_out_of_memory(error):
        return None
    checkpoints = request.work / CHECKPOINTS
    begun = list(checkpoints.glob(".step-*.staging"))
    free, written = free_bytes(request.work), sum(map(folder_bytes, begun))
    needed = max([folder_bytes(path) for path in checkpoints.glob("step-*")], default=0)
    for staging in begun:
        shutil.rmtree(staging, ignore_errors=True)
    what = f"the disk is full: {free:,} bytes were free"
    if begun:
        what += f" after {written:,} bytes of a checkpoint" + (f" that needs {needed:,}" if needed else "")
    where = str(getattr(error, "filename", None) or (checkpoints if begun else request.work))
    return ResourceError(what, where=where, fix=_MAKE_ROOM)


def unsaid_full_disk(code: int, request: TrainRequest) -> ResourceError | None:
    """The cause of a rank's end of which the exit code alone is left, since its words found no room; None for others.

    A scheduler that saw memory run out ends with the same code; then no rank has begun to say anything, and one could.
    """
    begun = (request.work / FAILURE).exists() and read_failure(request.work) is None
    if code != ResourceError.exit_code or not (begun or write_refusal(request.work)):
        return None
    free = free_bytes(request.work)
    what = f"the disk was too full even for the reason of a rank's end; {free:,} bytes are free now"
    return ResourceError(what, where=str(request.work), fix=_MAKE_ROOM)


def _state_bytes(cell: Cell) -> int:
    """Per trained parameter, in one checkpoint."""
    return _STATE_BYTES[cell.training.optim] + (_DEEPSPEED_BYTES if cell.layout.engine == "deepspeed" else 0)


def _model_bytes(cell: Cell) -> int:
    """Of a whole model in the dtype of the base's files, where training leaves one; 0 for an adapter."""
    facts = cell.base.facts
    whole = parse_method(cell.method).holds == "model"
    return facts.parameters * _STORED_BYTES.get(facts.dtype, 4) if whole else 0


def _refuse_large_files(largest: int, request: TrainRequest) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and largest > limit:
        what = f"a checkpoint has a file of {largest:,} bytes and `ulimit -f` allows {limit:,}"
        raise ResourceError(what, where=str(request.work), fix="Raise the limit on the size of files")


def _refuse_too_much(needs: dict[Path, int]) -> None:
    """Folders on one file system share its room."""
    devices: dict[int, list[Path]] = defaultdict(list)
    for folder in needs:
        devices[nearest_existing(folder).stat().st_dev].append(folder)
    for folders in devices.values():
        needed, free = sum(needs[folder] for folder in folders), free_bytes(folders[0])
        if needed > free:
            raise ResourceError(
                f"training will write about {needed:,} bytes and {free:,} are free",
                where=" and ".join(str(folder) for folder in folders),
                fix=_MAKE_ROOM,
            )
