"""A folder for work that leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def scratch_folder(path: Path, wait_seconds: float = -1) -> Iterator[Path]:
    """An empty folder that one process at a time has; what a killed one left is removed, and so is it at the end.

    Args:
        wait_seconds: for whoever has it now; without end when negative.

    Raises:
        filelock.Timeout: somebody has it still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock"), timeout=wait_seconds):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
