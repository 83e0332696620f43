"""One lock per accelerator of this machine, whoever's the run is: two never compute on one device.

A lock is a `flock` on a file that everybody may open. The kernel lets go of it when its holder dies, however; so a file
that lies there says nothing, and is never deleted: a deleted file could be locked by one run and made anew by the next.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import stat
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from tasks.foundation.errors import ResourceError

FOLDER_VARIABLE: Final = "TUNELINE_LOCKS"
_SHARED: Final = (Path("/run/lock"), Path("/tmp"))  # noqa: S108  (files in it are opened as a stranger's)
_STICKY = 0o1777
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Opening needs no right to write, follows no link, and waits for nobody at the other end of a pipe."""


def lock_folder(environment: Mapping[str, str]) -> Path:
    """TUNELINE_LOCKS, or the first place of the system where every user may make files; the same for all users."""
    named = environment.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    shared = (path for path in _SHARED if path.is_dir() and path.stat().st_mode & _STICKY == _STICKY)
    return next(shared, _SHARED[-1])


def try_lock(devices: Sequence[str]) -> ExitStack | None:
    """Hold the locks of all devices until the stack is closed; None where somebody else holds one of them.

    Raises:
        ResourceError: a lock's file cannot be made or opened.
    """
    folder = lock_folder(os.environ)
    with ExitStack() as stack:
        for name in sorted(map(_lasting_name, devices)):
            path = folder / f"tuneline-accelerator-{re.sub(r'[^A-Za-z0-9._-]', '-', name)}.lock"
            descriptor = _opened(path)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if not _still_there(descriptor, path):
                return None
        return stack.pop_all()


def _opened(path: Path) -> int:
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(_STICKY)
        with suppress(FileExistsError):
            _make(path)
        descriptor = os.open(path, _READ)
    except OSError as error:
        what = f"the lock of an accelerator cannot be opened: {error.strerror}"
        fix = f"Set {FOLDER_VARIABLE} to a folder that all users of this machine may write to"
        raise ResourceError(what, where=str(path), fix=fix) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ResourceError("the lock of an accelerator is no file", where=str(path), fix="Remove it")


def _make(path: Path) -> None:
    """Readable for all from its first moment, so that no other user finds it closed."""
    if path.exists():
        return
    staged = path.with_suffix(f".{uuid.uuid4().hex}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.link(staged, path)
    finally:
        os.close(descriptor)
        staged.unlink()


def _still_there(descriptor: int, path: Path) -> bool:
    """Whether the file is the one that others will open: somebody may have cleaned up meanwhile."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    return False


def _lasting_name(device: str) -> str:
    """The device's UUID where the driver tells: one process knows a device by number, another by UUID."""
    if device.isdecimal():
        return _uuids().get(device, device)
    return next((uuid for uuid in _uuids().values() if uuid.startswith(device)), device)


@functools.cache
def _uuids() -> Mapping[str, str]:
    """Number -> UUID, of this machine's accelerators."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(re.findall(r"^GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)", listed, re.MULTILINE))
