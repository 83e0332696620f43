"""Before anything is loaded: every node has what the request says, and all that is wrong is told at once."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import psutil
import torch
from torch import distributed

from tasks.foundation.digests import digest_value
from tasks.foundation.errors import ConfigError, ErrorRecord, IntegrityError, ResourceError, TunelineError
from tasks.foundation.values import Value
from tasks.methods import Source, base_quantization, parse_method
from tasks.training.foresight import check_folders
from tasks.training.identity import Beside, cell_facts
from tasks.training.marks import check_base, check_source, check_tokens
from tasks.training.meeting import take_accelerator
from tasks.training.memory import memory_limit_bytes
from tasks.training.values import Cell, TrainRequest

log = logging.getLogger(__name__)

_ORDER: Final = (IntegrityError.exit_code, ConfigError.exit_code)
"""Where several things are wrong, the exit code is the first of these that occurs, otherwise that of the first rank."""
_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


class RankReport(Value):
    """What one rank says of its place."""

    node: str
    rank: int
    request: str
    """Digest of the request that it read."""
    problems: tuple[ErrorRecord, ...]


def check_places(request: TrainRequest) -> None:
    """Compare every rank's place with the request; where anything differs, all ranks raise the same error.

    Called when the ranks can talk to each other and before the base is loaded. On several nodes, and on one that a
    scheduler chose, the code and the libraries are compared too: otherwise they are those of the pipeline, which
    started the ranks from its own folder.

    Raises:
        IntegrityError: another request, base, tokens, source or code on some node.
        ConfigError: other versions of libraries.
        ResourceError: a disk, the memory or an accelerator does not suffice.
    """
    started = time.monotonic()
    reports = _gathered(report(request))
    problems = [(said, record) for said in reports for record in _of_rank(said, reports[0])]
    if problems:
        raise _one_error(problems)
    nodes = sorted({said.node for said in reports})
    seconds = time.monotonic() - started
    log.info("%d ranks on %s have what the request says (%.3f s)", len(reports), ", ".join(nodes), seconds)


def report(request: TrainRequest) -> RankReport:
    """What this rank sees; what all ranks of a node see alike is looked at by its first one."""
    checks: list[Callable[[], Iterator[TunelineError]]] = [lambda: _accelerator(request.cell)]
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        checks += [lambda: _files(request), lambda: _software(request), lambda: _room(request)]
    problems = [ErrorRecord.of(error) for check in checks for error in check()]
    return RankReport(
        node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        rank=int(os.environ.get("RANK", "0")),
        request=digest_value(request),
        problems=tuple(problems),
    )


def _gathered(mine: RankReport) -> list[RankReport]:
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [mine]
    everyone: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine.model_dump_json())
    return [RankReport.model_validate_json(text) for text in everyone if text]


def _of_rank(said: RankReport, first: RankReport) -> Iterator[ErrorRecord]:
    yield from said.problems
    if said.request != first.request:
        yield ErrorRecord.of(IntegrityError(f"read another request than rank {first.rank} on {first.node}"))


def _one_error(problems: list[tuple[RankReport, ErrorRecord]]) -> TunelineError:
    """All problems in one line; equal ones of several ranks once."""
    codes = [record.exit_code for _, record in problems]
    code = next((code for code in _ORDER if code in codes), codes[0])
    leading = next(record for _, record in problems if record.exit_code == code)
    lines = dict.fromkeys(f"{said.node}: {_told(record)}" for said, record in problems)
    return leading.model_copy(update={"what": "; ".join(lines), "where": "preflight", "allowed": ""}).error()


def _told(record: ErrorRecord) -> str:
    return f"{record.where} {record.what}" if record.where else record.what


def _files(request: TrainRequest) -> Iterator[TunelineError]:
    cell = request.cell
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_base(cell.base, request.seen),
        lambda: check_tokens(cell.tokens, request.seen),
        *(partial(check_source, source, request.seen) for source in _beside_base(cell)),
    )
    for check in checks:
        try:
            check()
        except TunelineError as error:
            yield error
        except OSError as error:
            yield IntegrityError(f"cannot be read ({error.strerror})", where=str(error.filename))


def _beside_base(cell: Cell) -> Iterator[Source]:
    """The sources without the one that is the base itself; each once, however many settings name it."""
    found = {source.path: source for source in cell.sources.values() if source.path != cell.base.path}
    yield from found.values()


def _software(request: TrainRequest) -> Iterator[TunelineError]:
    """The code and the libraries of this node, where it is not the pipeline's own."""
    cell = request.cell
    if cell.layout.nodes == 1 and "SLURM_JOB_ID" not in os.environ:
        return
    here = cell_facts(cell.base, cell.tokens, cell.method, cell.training, Beside(cell.seed, cell.layout, cell.sources))
    if here["code"] != request.identity["code"]:
        yield IntegrityError("tuneline's code is not that of the request", fix="Install the same version on all nodes")
    for name in sorted(here):
        if name.startswith("library.") and here[name] != request.identity.get(name):
            what = f"{name.removeprefix('library.')} is {here[name]}, not {request.identity.get(name)}"
            yield ConfigError(what.replace('"', ""), fix="Install the same libraries on all nodes (constraints.txt)")


def _room(request: TrainRequest) -> Iterator[TunelineError]:
    """Folders that can be written and hold what comes, and memory for the base of all ranks of this node."""
    try:
        check_folders(request)
    except ResourceError as error:
        yield error
    cell = request.cell
    if cell.layout.device == "cpu":
        held = cell.layout.ranks_per_node * _base_bytes(cell)
        available = min(psutil.virtual_memory().available, memory_limit_bytes())
        if held > available:
            what = f"has {available:,} bytes of memory left and the base takes {held:,} on its ranks"
            yield ResourceError(what, fix="Start fewer ranks on each node, or set distributed.strategy: zero3")


def _accelerator(cell: Cell) -> Iterator[TunelineError]:
    """The accelerator of this rank, with room for the base."""
    if cell.layout.device == "cpu":
        return
    try:
        index = take_accelerator()
    except ResourceError as error:
        yield error
        return
    needed, (free, total) = _base_bytes(cell), torch.cuda.mem_get_info(index)
    if needed > free:
        name = torch.cuda.get_device_name(index)
        what = f"accelerator {index} ({name}) has {free:,} of {total:,} bytes free and the base takes {needed:,}"
        yield ResourceError(what, fix="Free it, or set distributed.strategy: zero3")


def _base_bytes(cell: Cell) -> int:
    """Of the base's weights on one rank."""
    facts, quantization = cell.base.facts, base_quantization(parse_method(cell.method), cell.base.quantization)
    dtype = facts.dtype if cell.base.dtype == "auto" else cell.base.dtype
    bits = quantization.bits if quantization else 8 * _BYTES.get(dtype, 4)
    if "offload_param" in (cell.layout.deepspeed or {}).get("zero_optimization", {}):
        return 0  # kept on the host, or on a disk
    shards = cell.layout.ranks if cell.layout.zero_stage == 3 or cell.layout.engine == "fsdp2" else 1
    return facts.parameters * bits // 8 // shards
