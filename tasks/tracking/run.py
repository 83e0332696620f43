"""The writing side: what steps, tasks and flows call. It appends to the run's journal and never waits for a server."""

from __future__ import annotations

import getpass
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.artifacts import sync, write_durably
from tasks.foundation.errors import ConfigError, DataError
from tasks.tracking.events import (
    ArtifactLogged,
    DatasetLogged,
    Event,
    MetricsLogged,
    ParamsLogged,
    RunCreated,
    RunFinished,
    TagsSet,
)
from tasks.tracking.journal import append, beside, line_of
from tasks.tracking.limits import MAX_METRICS, MAX_PARAM_CHARS, MAX_TAG_CHARS, cut, flatten, safe_key, storable
from tasks.tracking.owner import hold, release
from tasks.tracking.values import MetricPoint, RunRef, RunStatus

_LINK_BYTES = 64 << 20
"""Files up to this size are copied into the spool; larger ones (weights) are linked, which takes no space."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def create_run(
    spool: Path,
    *,
    name: str,
    experiment: str,
    parent: RunRef | None = None,
    tags: Mapping[str, str] = {},
) -> RunRef:
    """Begin a run. The calling process owns it: should it die before `finish`, the next start closes it as KILLED.

    Call it in the process that has the shipper; other processes may then write to the run through `Run(ref)`.

    Args:
        spool: the folder of all journals.
        experiment: MLflow's experiment; it is created when it does not exist.
        parent: a run of the same spool under which MLflow shows this one.
    """
    spool.mkdir(parents=True, exist_ok=True)
    key = uuid.uuid4().hex
    journal = spool.absolute() / f"{key}.jsonl"
    all_tags = {"mlflow.user": _user(), "mlflow.source.name": "tuneline", "mlflow.source.type": "LOCAL", **tags}
    short = {key: text for key, text in all_tags.items() if len(text) <= MAX_TAG_CHARS}
    event = RunCreated(
        at_ms=now_ms(),
        key=key,
        name=storable(name),
        experiment=storable(experiment),
        parent=parent.journal.stem if parent else None,
        tags={safe_key(key): storable(text) for key, text in short.items()},
    )
    hold(journal)
    write_durably(journal, line_of(event).decode("utf-8"))
    ref = RunRef(journal=journal, name=name)
    Run(ref).set_tags({key: text for key, text in all_tags.items() if key not in short})
    return ref


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's numeric user without a name
        return str(os.getuid())


class Run:
    """Writes to a run, from any thread or process of this machine."""

    def __init__(self, ref: RunRef, *, clock: Callable[[], int] = now_ms) -> None:
        self._journal = ref.journal
        self._ref = ref
        self._clock = clock

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested settings, flattened (`method.r`); values above 6000 characters are cut, an artifact has all of it."""
        flat = flatten(params)
        if flat:
            fitting = self._fitting(flat, MAX_PARAM_CHARS, "params")
            self._append(ParamsLogged(at_ms=self._clock(), params=fitting))

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Values of one step, measured now."""
        now = self._clock()
        self.log_metric_series(
            [MetricPoint(name=name, value=float(value), step=step, timestamp_ms=now) for name, value in values.items()]
        )

    def log_metric_series(self, points: Sequence[MetricPoint]) -> None:
        """Points with their own times; points that were logged before change nothing.

        MLflow stores NaN as it is, but an infinity as the largest float: a tag `tuneline.infinite.<name>` says so.
        """
        if not points:
            return
        named = [point.model_copy(update={"name": safe_key(point.name)}) for point in points]
        now = self._clock()
        stretches = [named[start : start + MAX_METRICS] for start in range(0, len(named), MAX_METRICS)]
        append(self._journal, [MetricsLogged(at_ms=now, points=tuple(stretch)) for stretch in stretches], durable=False)
        infinite = {point.name: point for point in named if math.isinf(point.value)}
        if infinite:
            self.set_tags(
                {f"tuneline.infinite.{name}": f"{at.value} at step {at.step}" for name, at in infinite.items()}
            )

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file or a folder, kept as it is now: it may be deleted or (below 64 MiB) changed right after the call.

        Larger files are hard-linked, so they must be replaced and never rewritten, as artifacts and checkpoints are.

        Raises:
            DataError: there is nothing at the path.
        """
        if not path.exists():
            raise DataError("the artifact to record does not exist", where=str(path))
        held = self._waiting_place() / path.name
        if path.is_dir():
            shutil.copytree(path, held, copy_function=_keep)
        else:
            _keep(str(path), str(held))
        self._append(self._artifact(held, folder))

    def log_text(self, text: str, path: str) -> None:
        """A text as an artifact; passwords in URIs are blotted out."""
        held, folder = self._write(text, path)
        self._append(self._artifact(held, folder))

    def log_table(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        """Rows that MLflow's page shows as a table; columns in order of appearance, a missing cell is empty.

        Raises:
            ConfigError: the path does not end in `.json`, the only form that the page shows.
        """
        if not path.endswith(".json"):
            raise ConfigError(f"a table cannot be called {path}", allowed="a path that ends in .json")
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = [[_cell(row.get(column)) for column in columns] for row in rows]
        text = json.dumps({"columns": columns, "data": cells}, ensure_ascii=False, default=str)
        held, folder = self._write(text, path)
        self._append(self._artifact(held, folder).model_copy(update={"table": True}))

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """A data set that the run used, with our own digest over all of it.

        MLflow's field holds 36 characters: it gets the first 36, the tag `tuneline.dataset.<context>.<name>` all.

        Args:
            digest: sha256 of the whole data set.
            source: path, URL or hub id.
            context: `training`, `evaluation`, …
        """
        texts = [storable(text) for text in (name, digest, source, context)]
        event = DatasetLogged(at_ms=self._clock(), name=texts[0], digest=texts[1], source=texts[2], context=texts[3])
        self._append(event)
        self.set_tags({f"tuneline.dataset.{context}.{name}": digest})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags; a later value replaces an earlier one. Values above 8000 characters are cut, an artifact has all."""
        if tags:
            flat = {safe_key(key): storable(str(value)) for key, value in tags.items()}
            self._append(TagsSet(at_ms=self._clock(), tags=self._fitting(flat, MAX_TAG_CHARS, "tags")))

    def finish(self, status: RunStatus) -> None:
        """The run's end."""
        self._append(RunFinished(at_ms=self._clock(), status=status))
        release(self._journal)

    def _append(self, event: Event) -> None:
        append(self._journal, [event], durable=True)

    def _fitting(self, texts: Mapping[str, str], limit: int, folder: str) -> dict[str, str]:
        return dict(self._fit(key, text, limit, folder) for key, text in texts.items())

    def _fit(self, key: str, text: str, limit: int, folder: str) -> tuple[str, str]:
        if len(text) <= limit:
            return key, text
        path = f"{folder}/{key}.txt"
        self.log_text(text, path)
        return key, cut(text, limit, path)

    def _write(self, text: str, path: str) -> tuple[Path, str]:
        target = PurePosixPath(path)
        if target.is_absolute() or ".." in target.parts or not target.name:
            raise ConfigError(f"{path!r} cannot be an artifact", allowed="a relative path without `..`")
        held = self._waiting_place() / target.name
        write_durably(held, storable(text))
        return held, "" if len(target.parts) == 1 else target.parent.as_posix()

    def _waiting_place(self) -> Path:
        place = beside(self._journal, ".files") / uuid.uuid4().hex
        place.mkdir(parents=True)
        return place

    def _artifact(self, held: Path, folder: str) -> ArtifactLogged:
        below = held.relative_to(beside(self._journal, ".files")).as_posix()
        return ArtifactLogged(at_ms=self._clock(), held=below, folder=folder)


def _keep(source: str, target: str) -> None:
    """Make a file of its own, or a second name for a large one where the disk allows it."""
    if Path(source).stat().st_size > _LINK_BYTES:
        try:
            Path(target).hardlink_to(Path(source).resolve())
            return
        except OSError:  # another disk, or a file system without links
            pass
    shutil.copyfile(source, target)
    sync(Path(target))


def _cell(value: Any) -> Any:
    """NaN and infinities as text: JSON has no number for them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
