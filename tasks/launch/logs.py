"""The log that many processes append to stays bounded, however much a library prints into it."""

from __future__ import annotations

import io
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

LIMIT_BYTES = 64 << 20
_COPY_BYTES = 1 << 20
_LOOKS = 10
"""At the end of a log that is moved: a storm may be quicker than the disk, and has no last words."""
_alone = threading.Lock()


def earlier(log: Path) -> Path:
    """Where the part lies that was moved out of the way: `log.txt.1` beside `log.txt`."""
    return log.with_name(f"{log.name}.1")


def cap(log: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Move the log's end to `<log>.1` and empty it, once it has grown beyond the limit.

    Its writers hold it open to append, so they go on in the emptied file. What they write meanwhile is moved too, so
    that the last words of a process that dies just now are kept; only what comes between the last look at its size and
    its emptying, microseconds later unless a large write is going on, is lost. Where the disk is too full to keep
    anything, all of it is: no step fails for want of a log.

    Args:
        log: the file; nothing happens where it is not there.
        limit_bytes: most of either file. Half of it is kept of what was there, the rest is for what comes meanwhile.
    """
    with suppress(FileNotFoundError), _alone:
        if (size := log.stat().st_size) <= limit_bytes:
            return
        try:
            _move_end(log, size, limit_bytes)
        except OSError as error:
            _log.warning("%s is emptied, and its end could not be kept: %s", log, error)
            os.truncate(log, 0)


def _move_end(log: Path, size: int, limit_bytes: int) -> None:
    staged = log.with_name(f".{log.name}.1.staged")
    try:
        with log.open("rb", buffering=0) as source, staged.open("wb", buffering=0) as target:
            source.seek(size - limit_bytes // 2)
            _copy(source, target, limit_bytes // 2)
            staged.replace(earlier(log))
            _follow(source, target, limit_bytes)
            os.truncate(log, 0)
    finally:
        staged.unlink(missing_ok=True)


def _follow(source: io.FileIO, target: io.FileIO, limit_bytes: int) -> None:
    """Copy what came meanwhile until there is no more of it; where there is no room, the newer takes the older's."""
    for _ in range(_LOOKS):
        if (new := os.fstat(source.fileno()).st_size - source.tell()) <= 0:
            return
        if new > limit_bytes - target.tell():
            target.seek(0)
            target.truncate()
            source.seek(max(new - limit_bytes // 2, 0), io.SEEK_CUR)
        _copy(source, target, min(new, limit_bytes - target.tell()))


def _copy(source: io.FileIO, target: io.FileIO, count: int) -> None:
    while count > 0 and (data := source.read(min(count, _COPY_BYTES))):
        left = memoryview(data)
        while left:
            left = left[target.write(left) :]
        count -= len(data)
