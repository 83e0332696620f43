"""Room on a disk, and whether a folder can be written: asked before anything is computed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the closest parent that is there: where it will be made."""
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    return path


def free_bytes(folder: Path) -> int:
    """What may still be written where the folder is, or will be, as far as the file system tells."""
    return shutil.disk_usage(nearest_existing(folder)).free


def write_refusal(folder: Path) -> str:
    """Why no file can be made, synced and removed where the folder is, or will be; empty when one can.

    Nothing is left behind.
    """
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(folder)) as file:
            file.write(b"tuneline")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def folder_bytes(folder: Path) -> int:
    """Sizes of all files below a folder; what is removed meanwhile does not count."""
    sizes = []
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:
            continue
    return sum(sizes)
