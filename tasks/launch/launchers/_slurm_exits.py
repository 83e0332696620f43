"""`exitcode.<job>.<restart>`: how each start of a job ended, in our own words. Slurm forgets a job within minutes, and
of several nodes it tells only the highest code."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.foundation.errors import CancelledRunError, RankError, TunelineError

log = logging.getLogger(__name__)

_NAME = "exitcode.{job}.{restart}"
_CANCELLED, _LOST_PEER = CancelledRunError.exit_code, RankError.exit_code


def write_exit(folder: Path, job: str, restart: int, code: int) -> None:
    """Record how the whole gang ended; the batch script does, last of all."""
    _write(_path(folder, job, restart), code)


def read_exit(folder: Path, job: str, restart: int) -> int | None:
    """How that start of the job ended; None where its batch script did not get to say so."""
    return _read(_path(folder, job, restart))


def last_exit(folder: Path, job: str) -> int | None:
    """How the latest start that recorded its end did end."""
    pattern = re.compile(rf"exitcode\.{re.escape(job)}\.(\d+)")
    restarts = [int(match.group(1)) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return read_exit(folder, job, max(restarts)) if restarts else None


def write_node_exit(folder: Path, job: str, restart: int, node: int, code: int) -> None:
    """Record how the agent of one node ended."""
    _write(_node_path(folder, job, restart, node), code)


def read_node_exits(folder: Path, job: str, restart: int, nodes: int) -> list[int]:
    """Those of the nodes that said one; a node that died did not."""
    codes = [_read(_node_path(folder, job, restart, node)) for node in range(nodes)]
    return [code for code in codes if code is not None]


def verdict(srun_code: int, node_codes: Iterable[int]) -> int:
    """The code that tells the cause: 143, 32 and 1 are what nodes end with when another one broke off first."""
    if srun_code == 0:
        return 0
    order = {_CANCELLED: 3, TunelineError.exit_code: 2, _LOST_PEER: 1}
    told = sorted((code for code in node_codes if code), key=lambda code: order.get(code, 0))
    return told[0] if told else srun_code


def _path(folder: Path, job: str, restart: int) -> Path:
    return folder / _NAME.format(job=job, restart=restart)


def _node_path(folder: Path, job: str, restart: int, node: int) -> Path:
    return folder / f"{_NAME.format(job=job, restart=restart)}.node{node}"


def _write(path: Path, code: int) -> None:
    """A full disk may be what the code tells: it must not take the code with it, which Slurm knows too."""
    try:
        write_durably(path, str(code))
    except OSError as error:
        log.error("that it ended with %d cannot be recorded: %s", code, error)


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
