"""The log that many processes append to stays bounded, however much a library prints into it."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

LIMIT_BYTES = 64 << 20
_COPY_BYTES = 1 << 20
_alone = threading.Lock()


def earlier(log: Path) -> Path:
    """Where the part lies that was moved out of the way: `log.txt.1` beside `log.txt`."""
    return log.with_name(f"{log.name}.1")


def cap(log: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Move the log's last `limit_bytes` to `<log>.1` and empty it, once it has grown beyond that.

    Its writers hold it open to append, so they go on in the emptied file. What they write between the copy and the
    emptying is lost: that is a moment, and only in a storm. Where the disk is too full to keep anything, all of it is:
    no step fails for want of a log.
    """
    with suppress(FileNotFoundError), _alone:
        if (size := log.stat().st_size) <= limit_bytes:
            return
        try:
            _keep_end(log, size, limit_bytes)
        except OSError as error:
            _log.warning("%s is emptied, and nothing of it could be kept: %s", log, error)
        os.truncate(log, 0)


def _keep_end(log: Path, size: int, limit_bytes: int) -> None:
    staged = log.with_name(f".{log.name}.1.staged")
    try:
        _copy_end(log, staged, size, limit_bytes)
        staged.replace(earlier(log))
    finally:
        staged.unlink(missing_ok=True)


def _copy_end(log: Path, staged: Path, size: int, limit_bytes: int) -> None:
    with log.open("rb") as source, staged.open("wb") as target:
        source.seek(size - limit_bytes)
        while (left := limit_bytes - target.tell()) > 0 and (data := source.read(min(left, _COPY_BYTES))):
            target.write(data)
