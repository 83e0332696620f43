"""Out of memory: recognised wherever it strikes, told with numbers, and with the override that would fit."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from tasks.foundation.errors import BatchTooLargeError, ResourceError, is_out_of_memory
from tasks.launch.failure import read_failed_rank
from tasks.launch.kills import Kills, control_groups, kills_so_far
from tasks.launch.layout import Layout
from tasks.methods import base_quantization, parse_method
from tasks.training.engines import OPTIMIZER_REFUSES
from tasks.training.pulse import Beat, Phase, read_beats
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainRequest

_SPOT = "out of memory at "
"""How the note on an error begins that says on which batch it was raised."""

_KILLED = 128 + 9
"""Exit code of a gang of which a rank got SIGKILL."""


class MicroBatch(NamedTuple):
    """How one optimiser step is cut; their product is the rank's share of the global batch."""

    sequences: int
    """`per_device_train_batch_size`."""
    steps: int
    """`gradient_accumulation_steps`."""


def smaller_micro_batch(settings: TrainingSettings) -> MicroBatch | None:
    """Half the sequences, or the nearest number below that keeps the global batch; None for a single sequence."""
    sequences, steps = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    share = sequences * steps
    fitting = (count for count in range(sequences // 2, 0, -1) if share % count == 0)
    smaller = next(fitting, None)
    return MicroBatch(smaller, share // smaller) if smaller else None


@contextmanager
def computing_on(shape: tuple[int, ...], step: int) -> Iterator[None]:
    """Note on an error for lack of memory, whatever its class, what was being computed on.

    Args:
        shape: of the batch: sequences x tokens.
        step: the optimiser step that is not done yet, from 1.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            size = " x ".join(str(length) for length in shape)
            error.add_note(f"{_SPOT}step {step}, on a batch of {size} tokens")
        raise


def out_of_memory(error: Exception, request: TrainRequest) -> ResourceError | None:
    """What a rank says of its own end for lack of memory: where, how much it had, and what would fit; None for others.

    It is a BatchTooLargeError where a smaller micro-batch may help.
    """
    if not is_out_of_memory(error):
        return None
    rank = int(os.environ.get("RANK", "0"))
    beat = next((beat for beat in read_beats(request.work) if beat.rank == rank), None)
    noted = next((note for note in getattr(error, "__notes__", ()) if note.startswith(_SPOT)), None)
    spot = f"{_SPOT}{_place(beat)}" if noted is None else noted
    spot += f", while {beat.phase}" if noted and beat and beat.phase != "training" else ""
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    return _cause(f"{spot} ({said}); {_peak(request.cell.layout, rank)}", beat.phase if beat else "loading", request)


def killed_for_memory(code: int, before: Kills, request: TrainRequest) -> ResourceError | None:
    """The cause of a gang's end by SIGKILL, where the kernel has killed a process since `before`; None otherwise.

    Only where this control group has no counter does that of the whole machine decide, and without any a lack of
    memory is what is left as the likely cause.
    """
    now = kills_so_far()
    certain = before.here is not None and now.here is not None
    was, is_now = (before.here, now.here) if certain else (before.machine, now.machine)
    told = code == ResourceError.exit_code  # by a scheduler, which has looked on the ranks' own nodes
    if not told and (code != _KILLED or (was is not None and is_now is not None and is_now <= was)):
        return None
    failed = read_failed_rank(request.work)
    beats = [beat for beat in read_beats(request.work) if failed is None or beat.rank == failed.rank]
    beat = min(beats, key=lambda beat: (beat.step, beat.rank), default=None)
    who = f"rank {failed.rank}" if failed else "a rank"
    peak, limit = _rss(resource.RUSAGE_CHILDREN), memory_limit_bytes()
    what = f"{who} was killed ({'' if told or certain else 'likely '}out of memory) near {_place(beat)}"
    what += "" if told else f"; the largest process of this run had {peak:,} bytes, the limit is {limit:,}"
    return _cause(what, beat.phase if beat else "loading", request)


def _place(beat: Beat | None) -> str:
    if beat is None:
        return "its start"
    return f"step {beat.step + 1}" if beat.phase == "training" else f"step {beat.step}, while {beat.phase}"


def _cause(what: str, phase: Phase, request: TrainRequest) -> ResourceError:
    kind = BatchTooLargeError if phase == "training" else ResourceError
    return kind(what, where=request.cell.label, fix=remedy(request.cell, phase))


def remedy(cell: Cell, phase: Phase) -> str:
    """The weakest measure that is not in force yet, as overrides to add to the command."""
    settings = cell.training
    if phase == "evaluating" and (half := settings.per_device_eval_batch_size // 2):
        return f"Set training.per_device_eval_batch_size={half}"
    if phase == "training" and (smaller := smaller_micro_batch(settings)):
        automatic = "" if settings.auto_micro_batch else ", or training.auto_micro_batch=true"
        return (
            f"Set training.per_device_train_batch_size={smaller.sequences} "
            f"training.gradient_accumulation_steps={smaller.steps} (the same global batch){automatic}"
        )
    works = parse_method(cell.method).info.gradient_checkpointing is True
    if phase == "training" and works and not settings.gradient_checkpointing:
        return "Set training.gradient_checkpointing=true"
    return f"Take a stronger measure: {'; '.join(_stronger(cell))}"


def _stronger(cell: Cell) -> Iterator[str]:
    method, layout = parse_method(cell.method), cell.layout
    if base_quantization(method, cell.base.quantization) is None:
        yield "a method with a quantised base ({kind: qlora})"
    unshared = layout.ranks > 1 and layout.zero_stage < 3 and layout.engine != "fsdp2"
    if unshared and not (method.refuses_engine("zero3") or "zero3" in OPTIMIZER_REFUSES.get(cell.training.optim, {})):
        yield "distributed.strategy=zero3"
    if layout.device == "cuda" and layout.engine == "ddp" and cell.training.optim != "paged_adamw_8bit":
        yield "training.optim=paged_adamw_8bit"
    yield "shorter rows (data.max_seq_length)"
    yield "a smaller model"


def peak_memory_bytes() -> int:
    """Peak of allocated accelerator memory, or of this process' resident set."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return _rss(resource.RUSAGE_SELF)


def _peak(layout: Layout, rank: int) -> str:
    import torch

    if layout.device == "cuda" and torch.cuda.is_available():
        device = torch.cuda.current_device()
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        total = torch.cuda.get_device_properties(device).total_memory
        return f"cuda:{device} had {allocated:,} bytes allocated and {reserved:,} reserved of {total:,}"
    return f"rank {rank} had {_rss(resource.RUSAGE_SELF):,} bytes, the limit is {memory_limit_bytes():,}"


def _rss(who: int) -> int:
    """Peak resident set of this process, or of the largest of those that it waited for (KiB, on macOS bytes)."""
    peak = resource.getrusage(who).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_limit_bytes() -> int:
    """The least of what the machine has, a control group allows, and `ulimit -v`."""
    limits = [psutil.virtual_memory().total]
    for group in control_groups():
        for folder in (group, *group.parents):
            limits += [_number(folder / name) for name in ("memory.max", "memory.limit_in_bytes")]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(limit for limit in (*limits, address_space) if limit > 0)


def _number(file: Path) -> int:
    """A file's one number; 0 where there is none (`max`, or no such file)."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
