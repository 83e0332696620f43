"""A run's journal: `<spool>/<key>.jsonl`, append-only, safe for any number of writing processes on one machine.

Every append holds an exclusive flock and writes whole lines. A writer that died in the middle leaves a last line
without its newline; the next append cuts it off, and readers never see it. Beside the journal lie

    <key>.cursor.json      how far it was sent, and to which run
    <key>.owner            there while the run is not finished; locked while its owner lives
    <key>.rejected.jsonl   what the server refused for good, with its reason
    <key>.files/           artifacts that wait to be sent

Durability: `durable=True` returns after an fsync; it is for events that cannot be measured again (creation, params,
tags, artifacts, the end). Metric points are written without one: a killed process loses none, as the kernel has them,
and the shipper fsyncs the journal before it sends, so that a power cut cannot leave a journal behind its own cursor.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tasks.foundation.errors import IntegrityError, ResourceError
from tasks.foundation.faults import reach
from tasks.tracking.events import EVENT, Event

_TAIL_BYTES = 4096


class Entry(NamedTuple):
    """One line of a journal."""

    event: Event | None
    """None when the line is not an event: damage, or a newer version's kind."""
    line: bytes
    end: int
    """Offset of the byte after its newline."""


def journals(spool: Path) -> list[Path]:
    """Every journal of the spool, sorted."""
    return sorted(path for path in spool.glob("*.jsonl") if not path.name.endswith(".rejected.jsonl"))


def beside(journal: Path, suffix: str) -> Path:
    """A companion of the journal: `beside(<spool>/<key>.jsonl, ".owner")` is `<spool>/<key>.owner`."""
    return journal.with_name(f"{journal.stem}{suffix}")


def line_of(event: Event) -> bytes:
    """The event as one line with its newline."""
    return EVENT.dump_json(event, exclude_defaults=False) + b"\n"


def append(journal: Path, events: Sequence[Event], *, durable: bool) -> None:
    """Add events, all of them or none, after whatever other processes have added.

    Raises:
        IntegrityError: the journal is gone.
        ResourceError: the disk is full; the journal is as it was.
    """
    data = b"".join(line_of(event) for event in events)
    with _locked(journal, os.O_RDWR | os.O_APPEND, fcntl.LOCK_EX) as handle:
        size = _cut_torn_line(handle)
        try:
            reach("track.journal")
            _write(handle, data)
        except OSError as error:
            os.ftruncate(handle, size)
            raise ResourceError(
                f"cannot record the run: {error.strerror}", where=str(journal), fix="Free space on this disk"
            ) from error
        if durable:
            os.fsync(handle)


def read_entries(journal: Path, offset: int, limit_bytes: int) -> list[Entry]:
    """The whole lines from `offset` on, about `limit_bytes` of them and at least one if there is one."""
    with _locked(journal, os.O_RDONLY, fcntl.LOCK_SH) as handle:
        data = os.pread(handle, limit_bytes, offset)
        while (end := data.rfind(b"\n") + 1) == 0:
            more = os.pread(handle, limit_bytes, offset + len(data))
            if not more:
                return []
            data += more
    entries = []
    for line in data[:end].splitlines(keepends=True):
        offset += len(line)
        entries.append(Entry(_parse(line), line, offset))
    return entries


def count_lines(journal: Path, offset: int) -> int:
    """How many whole lines stand beyond `offset`."""
    with journal.open("rb") as file:
        file.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _parse(line: bytes) -> Event | None:
    try:
        return EVENT.validate_json(line)
    except ValidationError:
        return None


@contextmanager
def _locked(journal: Path, flags: int, lock: int) -> Iterator[int]:
    try:
        handle = os.open(journal, flags)
    except FileNotFoundError as error:
        raise IntegrityError(
            "the run's journal is gone", where=str(journal), fix="Do not delete the spool while runs are active"
        ) from error
    try:
        fcntl.flock(handle, lock)
        yield handle
    finally:
        os.close(handle)


def _cut_torn_line(handle: int) -> int:
    """Remove what follows the last newline, and return the size then."""
    size = keep = os.fstat(handle).st_size
    while keep > 0:
        start = max(0, keep - _TAIL_BYTES)
        newline = os.pread(handle, keep - start, start).rfind(b"\n")
        keep = start if newline < 0 else start + newline + 1
        if newline >= 0:
            break
    if keep < size:
        os.ftruncate(handle, keep)
    return keep


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
