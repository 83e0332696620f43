"""Real limits of the machine for tests: a control group with little memory, a file system with little room."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@contextmanager
def memory_limited(limit_bytes: int) -> Iterator[Callable[[int], None]]:
    """A control group; the function given moves a process into it. Skips where none can be made."""
    root, name = (_V1, "memory.limit_in_bytes") if _V1.is_dir() else (_V2, "memory.max")
    group = root / f"tuneline-test-{uuid.uuid4().hex[:12]}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit_bytes))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group with a memory limit can be made here: {error}")
    try:
        yield lambda pid: _join(group, pid)
    finally:
        group.rmdir()


def _join(group: Path, pid: int) -> None:
    (group / "cgroup.procs").write_text(str(pid))


def touch_memory(size_bytes: int) -> bytearray:
    """Memory that is really there: every page is written to."""
    held = bytearray(size_bytes)
    for start in range(0, size_bytes, 4096):
        held[start] = 1
    return held


def killed_by_its_own_memory(size_bytes: int) -> bool:
    """Whether a child that takes so much of it gets SIGKILL."""
    pid = os.fork()
    if pid == 0:
        touch_memory(size_bytes)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@contextmanager
def small_disk(folder: Path, size_bytes: int, *, read_only: bool = False) -> Iterator[Path]:
    """A file system of its own in a folder; skips where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes}" + (",ro" if read_only else "")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Take all room of a small disk but the last bytes; the file that takes it."""
    filler = folder / "filler"
    room = os.statvfs(folder)
    with suppress(OSError):  # somebody else was faster: it is full all the same
        filler.write_bytes(b"\0" * max(room.f_bavail * room.f_frsize - leave_bytes, 0))
    return filler
