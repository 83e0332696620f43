"""Who owns a run that is not finished: the process that holds a flock on `<key>.owner`.

The kernel drops the lock when the process dies, however it dies; neither a reused pid nor a left-over file can fool
the next start. The file is there from before the journal exists until after its end is written, so that a start looks
only at runs that could need it.

The file names its owner. On a folder that several hosts share, a lock may be one of its host only, depending on the
file system: what another host holds is left alone unless somebody says that none of them is running any more.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tasks.foundation.errors import ConflictError
from tasks.launch.ownership import owner_named, this_process
from tasks.tracking.events import RunCreated, RunFinished
from tasks.tracking.journal import Entry, append, beside, read_entries
from tasks.tracking.values import RunRef

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 22
_GLANCE_SECONDS = 60.0
"""How long a reconcile in another process may look at an owner file: it asks Prefect's server meanwhile."""
_NAME_BYTES = 1024
_NAMING_SECONDS = 1.0
"""How long a file without a name is left to the one who has just opened it, who locks and names it in microseconds."""

_held: dict[Path, int] = {}
"""Owner files that this process holds, with their handles: a lock lives as long as the open file does."""
_guard = threading.Lock()


def hold(journal: Path) -> None:
    """Own the run that this process is about to create, until its end is written or the process dies.

    Raises:
        ConflictError: another living process owns it: an orchestrator has started one flow run twice.
    """
    _watch_forks()
    path = _owner_file(journal)
    deadline = time.monotonic() + _GLANCE_SECONDS
    with _guard:
        while (handle := _lock(path)) is None:  # a reconcile in another process looks at the file for a moment
            if time.monotonic() > deadline:
                raise _owned_by_another(path)
            time.sleep(0.001)
        os.pwrite(handle, str(this_process()).encode(), 0)
        _held[path] = handle


def _owned_by_another(path: Path) -> ConflictError:
    owner = owner_named(path.read_bytes().decode("utf-8", "replace"))
    whom = f"pid {owner.pid} on {owner.host}" if owner else "another process"
    fix = "Wait for it, or end it; what it has done by then is found again"
    return ConflictError(f"{whom} runs this very run already", where=str(path), fix=fix)


def release(journal: Path) -> None:
    """Give the run up, its end being written; nothing happens when this process does not own it."""
    path = _owner_file(journal)
    with _guard:
        handle = _held.pop(path, None)
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)


def owned_here(journal: Path) -> bool:
    """True while this process owns the run: its end is not written yet."""
    with _guard:
        return _owner_file(journal) in _held


def owned_elsewhere(journal: Path) -> bool:
    """True when another living process owns the run."""
    path = _owner_file(journal)
    with _guard:
        if path in _held or not path.exists():
            return False
        handle = _lock(path)
        if handle is not None:
            os.close(handle)
        return handle is None


def reconcile(spool: Path, *, all_hosts: bool = False) -> list[RunRef]:
    """Write the end `KILLED` for every run whose owner died without writing one; returns those runs.

    The time of the end is that of the last event, the last sign of life.

    Args:
        all_hosts: also for runs of other hosts that share the spool; none of them may be running.
    """
    closed = []
    for path in sorted(spool.glob("*.owner")):
        with inherited(path.with_suffix(".jsonl"), all_hosts=all_hosts) as ours:
            ref = _close(path.with_suffix(".jsonl").absolute()) if ours else None
        closed += [ref] if ref else []
    return closed


@contextmanager
def inherited(journal: Path, *, all_hosts: bool = False) -> Iterator[bool]:
    """Hold what a dead process left, until the block ends; False where its owner may live.

    Nobody owns it after a block that ends well.
    """
    handle = _lock_dead(_owner_file(journal))
    if handle is None:
        yield False
        return
    try:
        ours = all_hosts or _was_here(handle)
        yield ours
        if ours:
            _owner_file(journal).unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock_dead(path: Path) -> int | None:
    """A locked handle of a file that nobody holds; without a name it may be that of an owner about to lock it."""
    handle = _lock_free(path)
    if handle is None or _name_in(handle):
        return handle
    os.close(handle)
    time.sleep(_NAMING_SECONDS)
    return _lock_free(path)


def _lock_free(path: Path) -> int | None:
    with _guard:
        return None if path in _held else _lock(path)


def _was_here(handle: int) -> bool:
    owner = owner_named(_name_in(handle))
    return owner is None or owner.is_here


def _name_in(handle: int) -> str:
    return os.pread(handle, _NAME_BYTES, 0).decode("utf-8", "replace")


def _close(journal: Path) -> RunRef | None:
    if not journal.exists():
        return None
    name, last_ms = journal.stem, 0
    for entry in _entries(journal):
        event = entry.event
        if isinstance(event, RunFinished):
            return None
        if isinstance(event, RunCreated):
            name = event.name
        last_ms = event.at_ms if event else last_ms
    append(journal, [RunFinished(at_ms=last_ms, status="KILLED")], durable=True)
    log.warning("%s was killed in an earlier session; its run is closed as KILLED", name)
    return RunRef(journal=journal, name=name)


def _entries(journal: Path) -> Iterator[Entry]:
    offset = 0
    while entries := read_entries(journal, offset, _READ_BYTES):
        yield from entries
        offset = entries[-1].end


def _lock(path: Path) -> int | None:
    """An exclusively locked handle of the file, or None when another holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        if _is_still(path, handle):
            return handle
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    """False when a reconcile unlinked the file between our open and our lock."""
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


def _owner_file(journal: Path) -> Path:
    return beside(journal, ".owner").absolute()


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_let_go_after_fork)


def _let_go_after_fork() -> None:
    """A forked child shares the open files, and would keep its dead parent's runs alive."""
    global _guard
    _guard = threading.Lock()  # another thread may have held the old one while forking
    for handle in _held.values():
        os.close(handle)
    _held.clear()
