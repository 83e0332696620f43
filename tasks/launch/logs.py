"""The log that many processes append to stays bounded, however much a library prints into it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

LIMIT_BYTES = 64 << 20
_COPY_BYTES = 1 << 20
_alone = threading.Lock()


def earlier(log: Path) -> Path:
    """Where the part lies that was moved out of the way: `log.txt.1` beside `log.txt`."""
    return log.with_name(f"{log.name}.1")


def cap(log: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Move the log's last `limit_bytes` to `<log>.1` and empty it, once it has grown beyond that.

    Its writers hold it open to append, so they go on in the emptied file. What they write between the copy and the
    emptying is lost: that is a moment, and only in a storm.
    """
    if not log.exists() or log.stat().st_size <= limit_bytes:
        return
    with _alone:
        _move(log, limit_bytes)


def _move(log: Path, limit_bytes: int) -> None:
    if (size := log.stat().st_size) <= limit_bytes:  # another thread was faster
        return
    staged = log.with_name(f".{log.name}.1.staged")
    with log.open("rb") as source, staged.open("wb") as target:
        source.seek(size - limit_bytes)
        while (left := limit_bytes - target.tell()) > 0 and (data := source.read(min(left, _COPY_BYTES))):
            target.write(data)
    staged.replace(earlier(log))
    os.truncate(log, 0)
