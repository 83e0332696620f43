"""Where rows come from: files, globs, hub data sets, and the tasks that the project generates itself."""

from __future__ import annotations

import glob
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tasks.data.readers import known_suffixes, suffix_of
from tasks.data.settings import Columns, DataSettings, DataSource
from tasks.embedded import EMBEDDED_PREFIX, TASKS
from tasks.foundation.errors import DataError
from tasks.foundation.values import Value

Side = Literal["train", "eval"]
EmbeddedSplit = Literal["train", "dev", "test"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DEFAULT_SPLIT: dict[Side, str] = {"train": "train", "eval": "test"}
_EMBEDDED_SPLITS: dict[str, EmbeddedSplit] = {"train": "train", "dev": "dev", "test": "test"}


class Source(Value):
    """One part of a mixture, found and ready to be read."""

    kind: Literal["files", "hub", "embedded"]
    name: str
    """As the user wrote it."""
    files: tuple[Path, ...] = ()
    revision: str = ""
    split: str = ""
    """Of a hub data set or an embedded task."""
    weight: float | None
    format: str | None
    columns: Columns

    @property
    def label(self) -> str:
        """The name under which its rows are counted and located: the split belongs to it."""
        if self.kind == "embedded":
            return f"{EMBEDDED_PREFIX}{self.task}/{self.split}"
        return f"{self.name}@{self.revision[:12]}/{self.split}" if self.kind == "hub" else self.name

    @property
    def task(self) -> str:
        """Of `embedded:<task>[/<split>]`."""
        return self.name.removeprefix(EMBEDDED_PREFIX).partition("/")[0]


def resolve_sources(settings: DataSettings, side: Side) -> tuple[Source, ...]:
    """The sources of one side, in the order of the settings; none for `eval` when it is held out of `train`.

    Raises:
        DataError: a path does not exist, a glob matches nothing, a hub data set has no revision.
    """
    spec = settings.train if side == "train" else settings.eval
    if spec is None:
        return ()
    parts = (DataSource(path=spec, revision=settings.revision),) if isinstance(spec, str) else spec
    return tuple(_resolve(part, settings, side) for part in parts)


def _resolve(part: DataSource, settings: DataSettings, side: Side) -> Source:
    split = part.split or _DEFAULT_SPLIT[side]
    source = Source(
        kind="files",
        name=part.path,
        weight=part.weight,
        format=part.format or settings.format,
        columns=(settings.columns if part.columns is None else part.columns) or {},
    )
    if part.path.startswith(EMBEDDED_PREFIX):
        return _embedded(source, split, f"data.{side}")
    files = _files(part.path)
    if files:
        return source.model_copy(update={"files": files})
    if _is_hub_id(part.path) and part.revision:
        return source.model_copy(update={"kind": "hub", "revision": part.revision, "split": split})
    raise _not_found(part.path, f"data.{side}")


def _embedded(source: Source, split: str, where: str) -> Source:
    task = source.task
    split = source.name.partition("/")[2] or split
    if task not in TASKS:
        near = get_close_matches(task, TASKS, n=1)
        raise DataError(
            f"no embedded task {task!r}",
            where=where,
            allowed=", ".join(EMBEDDED_PREFIX + known for known in TASKS),
            fix=f"Did you mean {EMBEDDED_PREFIX}{near[0]}?" if near else "",
        )
    if split not in _EMBEDDED_SPLITS:
        raise DataError(f"no split {split!r} of {EMBEDDED_PREFIX}{task}", where=where, allowed="train, dev, test")
    return source.model_copy(update={"kind": "embedded", "split": split})


def _files(pattern: str) -> tuple[Path, ...]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return (path,)
    if path.is_dir():
        raise DataError(
            "this is a folder", where=pattern, allowed="a file or a glob", fix=f"Write for example {pattern}/*.jsonl"
        )
    if not glob.has_magic(pattern):
        return ()
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 (** and absolute paths)
    return tuple(name for name in found if name.is_file())


def _is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and suffix_of(Path(name)) not in known_suffixes()


def _not_found(name: str, where: str) -> DataError:
    if Path(name).expanduser().is_symlink():
        return DataError(f"{name} is a link to nothing", where=where, fix="Mend the link, or name the file itself")
    if glob.has_magic(name):
        return DataError(f"no file matches {name}", where=where, fix=_nearby(Path(name).expanduser()))
    hint = _nearby(Path(name).expanduser())
    if _is_hub_id(name):
        hint += ". If it is a hub data set, name its commit: revision: <40 hex digits>"
    return DataError(f"{name} does not exist", where=where, fix=hint)


def _nearby(path: Path) -> str:
    """What lies where the path was looked for."""
    folder = path.parent
    while not folder.is_dir() or glob.has_magic(str(folder)):
        folder = folder.parent
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    wanted = path.relative_to(folder).parts[0]
    near = get_close_matches(wanted, names, n=1)
    if near:
        return f"Did you mean {(folder / near[0]).as_posix()}?"
    shown = ", ".join([name for name in names if not name.startswith(".")][:8]) or "nothing"
    return f"In {folder.as_posix()} there is: {shown}"
