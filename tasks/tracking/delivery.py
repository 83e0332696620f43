"""Sends one journal's events to the sink, in order, and commits the cursor after every call."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from tasks.artifacts import sync
from tasks.foundation.faults import reach
from tasks.foundation.values import Value
from tasks.tracking.batches import batches
from tasks.tracking.cursor import Cursor, read_cursor, write_cursor
from tasks.tracking.events import (
    ArtifactLogged,
    DatasetLogged,
    MetricsLogged,
    ParamsLogged,
    RunCreated,
    RunFinished,
    TagsSet,
)
from tasks.tracking.journal import Entry, beside, read_entries
from tasks.tracking.limits import MAX_TAG_CHARS
from tasks.tracking.protocol import JOURNAL_TAG, TABLES_TAG, Batch, NewRun, RefusedError, RunGoneError, Sink

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


class ParentMissing(Exception):  # noqa: N818 - not an error: its turn comes later
    """The parent's run does not exist yet."""


class Delivery:
    """One journal on its way to the server."""

    def __init__(self, journal: Path, cursor: Cursor, sink: Sink) -> None:
        self._journal = journal
        self.cursor = cursor
        self._sink = sink
        self._sent_file: Path | None = None

    def send_chunk(self) -> bool:
        """Send the next events, about 1 MiB of them; False at the journal's end, or when its parent must come first.

        Raises:
            UnavailableError: from the sink; what was sent is committed.
        """
        entries = read_entries(self._journal, self.cursor.offset, _CHUNK_BYTES)
        if not entries:
            return False
        sync(self._journal)  # the cursor must never be ahead of what a power cut leaves of the journal
        try:
            for stretch in _stretches(entries):
                reach("track.send")
                self._send(stretch)
                reach("track.commit")
                self._commit(stretch[-1].end)
                self._discard_sent_file()
        except ParentMissing:
            return False
        return True

    def _send(self, stretch: Sequence[Entry]) -> None:
        entry = stretch[0]
        event = entry.event
        match event:
            case RunCreated():
                self._attempt(event, partial(self._create, event))
            case None:
                self._reject(entry.line.decode("utf-8", "replace"), "the line cannot be read")
            case _ if not self.cursor.run_id:
                for each in stretch:
                    self._reject(each.event, "its run could not be created")
            case ParamsLogged() | MetricsLogged() | TagsSet():
                self._send_batches(stretch)
            case ArtifactLogged():
                self._attempt(event, partial(self._send_artifact, event))
            case DatasetLogged():
                self._attempt(event, partial(self._sink.log_input, self.cursor.run_id, event))
            case RunFinished():
                end = partial(self._sink.set_terminated, self.cursor.run_id, event.status, event.at_ms)
                self._attempt(event, end)

    def _create(self, event: RunCreated) -> None:
        new = NewRun(
            key=event.key,
            name=event.name,
            experiment=event.experiment,
            started_ms=event.at_ms,
            parent_run_id=self._parent_run_id(event),
            tags={**event.tags, JOURNAL_TAG: event.key},
        )
        created = self._sink.create_run(new)
        told = {"run_id": created.run_id, "experiment": event.experiment, "experiment_id": created.experiment_id}
        self.cursor = self.cursor.model_copy(update=told)

    def _parent_run_id(self, event: RunCreated) -> str | None:
        if event.parent is None:
            return None
        parent = self._journal.with_name(f"{event.parent}.jsonl")
        cursor = read_cursor(parent)
        if parent.exists() and (cursor is None or cursor.offset == 0):
            raise ParentMissing
        if cursor is None or cursor.destination != self.cursor.destination or not cursor.run_id:
            log.warning("the parent of run %s is not on this server; the run is recorded without it", event.name)
            return None
        return cursor.run_id

    def _send_batches(self, stretch: Sequence[Entry]) -> None:
        for batch, end in batches(stretch):
            self._send_batch(batch)
            if end:
                self._commit(end)

    def _send_batch(self, batch: Batch) -> None:
        try:
            self._sink.log_batch(self.cursor.run_id, batch)
        except RefusedError as error:
            if batch.size == 1 or isinstance(error, RunGoneError):
                self._reject(batch, str(error))
                return
            for half in batch.halves():
                self._send_batch(half)

    def _send_artifact(self, event: ArtifactLogged) -> None:
        path = beside(self._journal, ".files") / event.held
        if not path.exists():
            raise RefusedError("its copy in the spool is gone")
        self._sink.log_artifact(self.cursor.run_id, path, event.folder)
        if event.table:
            self._name_table(f"{event.folder}/{path.name}" if event.folder else path.name)
        self._sent_file = path

    def _name_table(self, path: str) -> None:
        tables = tuple(dict.fromkeys((*self.cursor.tables, path)))
        text = json.dumps([{"path": table, "type": "table"} for table in tables])
        if len(text) > MAX_TAG_CHARS:
            log.warning(
                "%s has too many tables for MLflow's page; %s is there as a file only", self._journal.stem, path
            )
            return
        self._sink.log_batch(self.cursor.run_id, Batch(tags=((TABLES_TAG, text),)))
        self.cursor = self.cursor.model_copy(update={"tables": tables})

    def _discard_sent_file(self) -> None:
        """Only after its commit: killed before, the file is needed again. One that was refused stays."""
        if self._sent_file is not None:
            shutil.rmtree(self._sent_file.parent, ignore_errors=True)
            self._sent_file = None

    def _attempt(self, event: Value, send: Callable[[], None]) -> None:
        try:
            send()
        except RefusedError as error:
            self._reject(event, str(error))

    def _reject(self, content: Value | str | None, reason: str) -> None:
        """Keep what the server will never take. After a kill at the wrong moment it may stand there twice."""
        path = beside(self._journal, ".rejected.jsonl")
        text = content.model_dump_json() if isinstance(content, Value) else json.dumps(content)
        with path.open("a", encoding="utf-8") as file:
            file.write(f'{{"reason":{json.dumps(reason)},"refused":{text}}}\n')
        sync(path)
        log.warning("the tracking server refused a part of a run: %s (kept in %s)", reason, path)

    def _commit(self, offset: int) -> None:
        self.cursor = self.cursor.model_copy(update={"offset": offset})
        write_cursor(self._journal, self.cursor)


def _stretches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Runs of events that share calls (metrics, params, tags), and every other event alone."""
    for batchable, group in groupby(
        entries, lambda entry: isinstance(entry.event, ParamsLogged | MetricsLogged | TagsSet)
    ):
        if batchable:
            yield list(group)
        else:
            yield from ([entry] for entry in group)
