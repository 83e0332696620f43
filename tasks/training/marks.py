"""Which files the pipeline had hashed: a node that sees the very same ones need not read them all again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tasks.artifacts import Artifact, read, verify
from tasks.foundation.digests import digest_tree
from tasks.foundation.errors import IntegrityError
from tasks.foundation.values import Value
from tasks.methods import Source
from tasks.models import BaseModel, base_files


class FileMark(Value):
    """What the file system says of one file. The device is left out: one share has another number on each node."""

    size: int
    inode: int
    modified_ns: int


Marks = dict[str, FileMark]
"""Path -> mark."""


def marks_of(base: BaseModel, tokens: Artifact, sources: Iterable[Source] = ()) -> Marks:
    """The files of a cell as this process sees them, a moment after the pipeline verified them."""
    paths = [base.path / name for name in base_files(base.path)]
    paths += [source.path / name for source in sources for name in source.files]
    return {str(path): _mark(path) for path in (*paths, *_token_files(tokens))}


def check_base(base: BaseModel, seen: Marks) -> None:
    """The base on this node is the one of the request.

    Names and sizes are always compared; the bytes only where a file is not the very one that the pipeline hashed
    (another inode or time: a copy on this node's own disk). That reads the whole base: 0.5-2 s per gigabyte.

    Raises:
        IntegrityError: a file is missing, or is another one.
        ModelError: there is no model.
    """
    names = base_files(base.path)
    if not _is_seen(base.path, names, seen) and digest_tree(base.path, names) != base.digest:
        raise IntegrityError("is not the base model of the request (another sha256)", where=str(base.path))


def check_tokens(tokens: Artifact, seen: Marks) -> None:
    """The tokens on this node are those of the request; read under the same rule as the base.

    Raises:
        IntegrityError: as above, or the manifest is another one.
    """
    manifest = read(tokens.path)
    if manifest is None or manifest.digest != tokens.digest:
        raise IntegrityError("does not hold the tokens of the request (another manifest)", where=str(tokens.path))
    if not _is_seen(tokens.path, tuple(entry.path for entry in manifest.files), seen):
        verify(tokens.path)


def check_source(source: Source, seen: Marks) -> None:
    """An earlier result on this node is that of the request; read under the same rule as the base.

    Raises:
        IntegrityError: a file is missing, or is another one.
        ModelError: a whole model is not complete.
    """
    names = source.files
    if not _is_seen(source.path, names, seen) and digest_tree(source.path, names) != source.digest:
        raise IntegrityError(f"is not the {source.reference} of the request (another sha256)", where=str(source.path))


def _is_seen(folder: Path, names: tuple[str, ...], seen: Marks) -> bool:
    """True where every file is the one that the pipeline saw.

    Raises:
        IntegrityError: one is missing, or has another size.
    """
    expected = {Path(path): mark for path, mark in seen.items() if Path(path).is_relative_to(folder)}
    for path, mark in expected.items():  # a source may lie below the base, or the base below a source
        if not path.is_file():
            raise IntegrityError("is missing", where=str(path))
        if (size := path.stat().st_size) != mark.size:
            raise IntegrityError(f"has {size} bytes, not {mark.size}", where=str(path))
    here = {folder / name: _mark(folder / name) for name in names if (folder / name).is_file()}
    return bool(here) and all(expected.get(path) == mark for path, mark in here.items())


def _token_files(tokens: Artifact) -> list[Path]:
    manifest = read(tokens.path)
    return [tokens.path / entry.path for entry in manifest.files] if manifest else []


def _mark(path: Path) -> FileMark:
    status = path.stat()
    return FileMark(size=status.st_size, inode=status.st_ino, modified_ns=status.st_mtime_ns)
