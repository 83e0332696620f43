"""`manifest.json`: the list of a folder's files with size and sha256. A folder without a valid one does not exist."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pydantic import ValidationError

from tasks.foundation.digests import canonical_json, digest_file, digest_value
from tasks.foundation.errors import IntegrityError
from tasks.foundation.faults import reach
from tasks.foundation.values import Value

MANIFEST = "manifest.json"


class FileEntry(Value):
    """One file; the path is relative, with `/`."""

    path: str
    size: int
    sha256: str


class Manifest(Value):
    """Every file of a folder but the manifest itself, sorted by path."""

    kind: str
    """What the folder is: a step's name, or `checkpoint`."""
    key: str
    """What the folder was made from."""
    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        """sha256 over paths, sizes and digests: the identity of the content."""
        return digest_value([entry.model_dump() for entry in self.files])


def describe(folder: Path, *, kind: str, key: str) -> Manifest:
    """Read every file of a folder and make its manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    entries = (
        FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest_file(path))
        for path in paths
    )
    return Manifest(kind=kind, key=key, files=tuple(entries))


def seal(folder: Path, *, kind: str, key: str) -> Manifest:
    """Make every byte of the folder durable, then write its manifest last."""
    noun = "checkpoint" if kind == "checkpoint" else "artifact"  # the fault points of both lie here
    manifest = describe(folder, kind=kind, key=key)
    for entry in manifest.files:
        reach(f"{noun}.file")
        sync(folder / entry.path)
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync(path)
    reach(f"{noun}.manifest")
    write_durably(folder / MANIFEST, canonical_json(manifest))
    return manifest


def read(folder: Path) -> Manifest | None:
    """The folder's manifest, or None where there is none or it is not one."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def verify(folder: Path) -> Manifest:
    """The manifest, after every file was found with its size and sha256 and no other file was.

    Raises:
        IntegrityError: naming the first file that differs.
    """
    manifest = read(folder)
    if manifest is None:
        raise IntegrityError("no valid manifest.json", where=str(folder))
    expected = {entry.path: entry for entry in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(expected.keys() ^ present):
        problem = "is missing" if name in expected else "is not in the manifest"
        raise IntegrityError(f"{name} {problem}", where=str(folder))
    for name, entry in expected.items():
        _verify_file(folder, name, entry)
    return manifest


def _verify_file(folder: Path, name: str, entry: FileEntry) -> None:
    size = (folder / name).stat().st_size
    if size != entry.size:
        raise IntegrityError(f"{name} has {size} bytes, not {entry.size}", where=str(folder))
    if digest_file(folder / name) != entry.sha256:
        raise IntegrityError(f"{name} has another sha256 than its manifest says", where=str(folder))


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: it holds the old content or the new one, whatever happens."""
    staged = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with staged.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is met while writing, which names no file
        raise
    finally:
        staged.unlink(missing_ok=True)
    sync(path.parent)
