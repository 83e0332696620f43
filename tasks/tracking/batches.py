"""Cuts a stretch of events into calls that MLflow's log_batch takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from tasks.tracking.events import MetricsLogged, ParamsLogged, TagsSet
from tasks.tracking.journal import Entry
from tasks.tracking.limits import MAX_BATCH_BYTES, MAX_ENTITIES, MAX_METRICS, MAX_PARAMS, MAX_TAGS
from tasks.tracking.protocol import Batch
from tasks.tracking.values import MetricPoint

_POINT_BYTES = 120
"""One metric in MLflow's JSON without its name: value, timestamp, step and their keys."""
_ENVELOPE_BYTES = 50_000
_CAPS = {"metrics": MAX_METRICS, "params": MAX_PARAMS, "tags": MAX_TAGS}


class _Item(NamedTuple):
    kind: Literal["metrics", "params", "tags"]
    point: MetricPoint | None
    pair: tuple[str, str]
    end: int
    """Where its event ends in the journal when it is the event's last item, otherwise 0."""

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire, at most: MLflow sends ASCII JSON."""
        if self.point is not None:
            return _POINT_BYTES + len(json.dumps(self.point.name))
        return 30 + len(json.dumps(self.pair))


def batches(entries: Sequence[Entry]) -> Iterator[tuple[Batch, int]]:
    """Batches in order, each with the journal offset that is sent once it is (0: inside an event)."""
    waiting: list[_Item] = []
    counts = dict.fromkeys(_CAPS, 0)
    size = 0
    for item in _items(entries):
        full = len(waiting) == MAX_ENTITIES or counts[item.kind] == _CAPS[item.kind]
        if full or size + item.size_bytes > MAX_BATCH_BYTES - _ENVELOPE_BYTES:
            yield _batch(waiting)
            waiting, counts, size = [], dict.fromkeys(_CAPS, 0), 0
        waiting.append(item)
        counts[item.kind] += 1
        size += item.size_bytes
    if waiting:
        yield _batch(waiting)


def _items(entries: Iterable[Entry]) -> Iterator[_Item]:
    for entry in entries:
        items = list(_items_of(entry))
        yield from items[:-1]
        yield from (item._replace(end=entry.end) for item in items[-1:])


def _items_of(entry: Entry) -> Iterator[_Item]:
    match entry.event:
        case MetricsLogged(points=points):
            yield from (_Item("metrics", point, ("", ""), 0) for point in points)
        case ParamsLogged(params=params):
            yield from (_Item("params", None, pair, 0) for pair in params.items())
        case TagsSet(tags=tags):
            yield from (_Item("tags", None, pair, 0) for pair in tags.items())
        case _:
            raise TypeError(f"{entry.event} does not go into a batch")


def _batch(items: Sequence[_Item]) -> tuple[Batch, int]:
    tags = dict(item.pair for item in items if item.kind == "tags")
    batch = Batch(
        metrics=tuple(item.point for item in items if item.point is not None),
        params=tuple(item.pair for item in items if item.kind == "params"),
        tags=tuple(tags.items()),
    )
    return batch, max(item.end for item in items)
