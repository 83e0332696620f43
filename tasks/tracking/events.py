"""The events of a run as they rest in its journal, one JSON object a line.

Everything the server could make up differently on a second try (times, names, the order of things) is decided here,
when the event is written. That is what makes sending an event twice the same as sending it once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from tasks.foundation.values import Value
from tasks.tracking.values import MetricPoint, RunStatus


class _Event(Value):
    at_ms: int
    """Milliseconds since 1970."""


class RunCreated(_Event):
    """The first event of every journal."""

    kind: Literal["created"] = "created"
    key: str
    """The journal's key; the run carries it as tag `tuneline.journal`."""
    name: str
    experiment: str
    parent: str | None = None
    """Key of the parent's journal, which lies in the same spool."""
    tags: dict[str, str]


class ParamsLogged(_Event):
    """Flat params; the values already fit MLflow."""

    kind: Literal["params"] = "params"
    params: dict[str, str]


class MetricsLogged(_Event):
    """A stretch of metric points, in order."""

    kind: Literal["metrics"] = "metrics"
    points: tuple[MetricPoint, ...]


class TagsSet(_Event):
    """Tags; a later one replaces an earlier one."""

    kind: Literal["tags"] = "tags"
    tags: dict[str, str]


class ArtifactLogged(_Event):
    """A file or folder that waits in the journal's own folder."""

    kind: Literal["artifact"] = "artifact"
    held: str
    """Path below the journal's files."""
    folder: str = ""
    """Folder among the run's artifacts; empty for the top."""
    table: bool = False
    """MLflow shows it as a table."""


class DatasetLogged(_Event):
    """A data set that the run used, with its full digest."""

    kind: Literal["dataset"] = "dataset"
    name: str
    digest: str
    source: str
    context: str


class RunFinished(_Event):
    """The run's end. Events may follow (a registered version's tags); the status stays."""

    kind: Literal["finished"] = "finished"
    status: RunStatus


Event = RunCreated | ParamsLogged | MetricsLogged | TagsSet | ArtifactLogged | DatasetLogged | RunFinished

EVENT: TypeAdapter[Event] = TypeAdapter(
    Annotated[Event, Field(discriminator="kind")], config=ConfigDict(ser_json_inf_nan="strings")
)
"""Reads and writes a line; NaN and infinities survive as strings."""
