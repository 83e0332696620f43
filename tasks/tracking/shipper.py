"""Brings the journals of a spool to the tracking server, in a thread, however often the server is away."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType

from tasks.foundation.errors import shortage
from tasks.tracking.cursor import Cursor, read_cursor, run_id_of, write_cursor
from tasks.tracking.delivery import Delivery
from tasks.tracking.journal import count_lines, journals
from tasks.tracking.owner import owned_elsewhere, reconcile
from tasks.tracking.protocol import Sink, UnavailableError
from tasks.tracking.redaction import redact
from tasks.tracking.settings import TrackingSettings
from tasks.tracking.uri import destination, tracking_uri
from tasks.tracking.values import RunRef

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_DISK_FULL = "disk is full"
"""What SQLite says of it."""


class Shipper:
    """Sends while the block runs, and what earlier runs left behind; at the end it waits `flush_seconds` at most.

    Steps are never held up: they write to journals, this thread reads them. Several shippers, also of several
    processes, may work on one spool: they take turns. A journal belongs to the server to which the first shipper of
    its own process sends; with another `tracking.uri` it waits in the spool.

    Args:
        settings: section `tracking`.
        spool: the folder of all journals.
        artifact_root: where artifacts lie when the tracking URI is a database; a server knows its own place.
        sink: another end than MLflow, for tests.
    """

    def __init__(
        self, settings: TrackingSettings, spool: Path, artifact_root: Path, *, sink: Sink | None = None
    ) -> None:
        self._uri = tracking_uri(settings)
        self._settings = settings
        self._spool = spool.absolute()
        self._artifact_root = artifact_root
        self._given_sink = sink
        self._destination = destination(self._uri)
        self._thread = threading.Thread(target=self._work, name="tracking-shipper", daemon=True)
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._turn = threading.Condition()
        self._outage_began: float | None = None
        self._no_room = False
        """The last attempt found a disk full, the spool's (what was sent cannot be noted) or that of a database."""
        self._failures: Counter[Path] = Counter()
        self._sent_to: dict[Path, int] = {}
        self.unsent = 0
        """Events that were left when the block ended."""

    def __enter__(self) -> Shipper:
        self._spool.mkdir(parents=True, exist_ok=True)
        reconcile(self._spool)
        log.debug("tracking goes to %s through %s", redact(self._uri), type(self._sink).__name__)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self.unsent = self._flush_while_it_helps()
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=1.0)  # a call to a dead server may hold it; it is a daemon and harmless
        if left:
            log.warning(
                "%d events could not be sent to %s; they wait in %s and are sent at the next start",
                left,
                redact(self._uri),
                self._spool,
            )

    @cached_property
    def _sink(self) -> Sink:
        """Made on entry, in the caller's thread: importing MLflow beside other imports is asking for a deadlock."""
        return self._given_sink or _mlflow_sink(self._uri, self._artifact_root)

    def flush(self, seconds: float) -> int:
        """Wait until everything written so far is sent, at most `seconds`; returns the number of events left.

        On a full disk nothing is waited for: no server can help.
        """
        end = time.monotonic() + seconds
        self._no_room = False
        while (left := self._left()) and (remaining := end - time.monotonic()) > 0 and self._thread.is_alive():
            if self._no_room:
                break
            with self._turn:
                self._wake.set()
                self._turn.wait(min(remaining, _POLL_SECONDS))
        return left

    def _flush_while_it_helps(self) -> int:
        """A server that does not answer is given `flush_seconds`, one that works through a backlog all it needs."""
        before, left = self._left(), self.flush(self._settings.flush_seconds)
        while 0 < left < before:
            before, left = left, self.flush(self._settings.flush_seconds)
        return left

    def run_id(self, ref: RunRef) -> str | None:
        """The MLflow run, or None before it was created there."""
        return run_id_of(ref)

    def _left(self) -> int:
        return sum(self._left_of(journal) for journal in journals(self._spool))

    def _left_of(self, journal: Path) -> int:
        if self._sent_to.get(journal) == journal.stat().st_size or owned_elsewhere(journal):
            return 0
        cursor = read_cursor(journal) or Cursor(destination=self._destination)
        return count_lines(journal, cursor.offset) if cursor.destination == self._destination else 0

    def _work(self) -> None:
        delay = _POLL_SECONDS
        while not self._stop.is_set():
            reached = self._take_turn()
            delay = _POLL_SECONDS if reached else min(2 * delay, _LONGEST_DELAY_SECONDS)
            with self._turn:
                self._turn.notify_all()
            self._wake.wait(delay * random.uniform(0.75, 1.0))
            self._wake.clear()

    def _take_turn(self) -> bool:
        """Send what there is; False when the server could not be reached."""
        try:
            with self._alone() as mine:
                while mine and self._send_some():
                    pass
        except UnavailableError as error:
            self._note_outage(str(error))
            self._no_room = _DISK_FULL in str(error)
            return False
        except Exception as error:  # the thread's outermost frame: nothing may end it in silence
            log.exception("the tracking shipper failed and will try again")
            self._no_room = shortage(error) is not None
            return False
        self._note_recovery()
        return True

    def _send_some(self) -> bool:
        """One chunk of every journal; those that failed lately come last and cannot hold up the others."""
        order = sorted(journals(self._spool), key=lambda journal: self._failures[journal])
        sent = [self._send_some_of(journal) for journal in order if not self._stop.is_set()]
        return any(sent)

    def _send_some_of(self, journal: Path) -> bool:
        if self._sent_to.get(journal) == journal.stat().st_size:
            return False
        cursor = self._cursor_of(journal)
        if cursor is None or cursor.destination != self._destination:
            return False
        delivery = Delivery(journal, cursor, self._sink)
        try:
            more = delivery.send_chunk()
        except UnavailableError:
            self._failures[journal] += 1
            raise
        self._failures.pop(journal, None)
        self._sent_to[journal] = delivery.cursor.offset
        return more

    def _cursor_of(self, journal: Path) -> Cursor | None:
        """The journal's cursor, made when it is ours to make: another living process binds its own journals."""
        cursor = read_cursor(journal)
        if cursor is None and not owned_elsewhere(journal):
            cursor = Cursor(destination=self._destination)
            write_cursor(journal, cursor)
        return cursor

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """True while no other shipper sends to the same server from this spool."""
        handle = os.open(self._spool / f".{self._destination}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(handle)

    def _note_outage(self, reason: str) -> None:
        if self._outage_began is None:
            self._outage_began = time.monotonic()
            log.warning("tracking server not reached, events wait in %s: %s", self._spool, redact(reason))
        else:
            log.debug("tracking server still not reached: %s", redact(reason))

    def _note_recovery(self) -> None:
        if self._outage_began is not None:
            log.info("tracking server reached again after %.0f s", time.monotonic() - self._outage_began)
            self._outage_began = None


def import_mlflow() -> None:
    """Spend MLflow's seconds of imports now, where the caller would only wait for something else."""
    from tasks.tracking.environment import set_mlflow_defaults

    set_mlflow_defaults()
    from tasks.tracking import mlflow_sink  # noqa: F401


def _mlflow_sink(uri: str, artifact_root: Path) -> Sink:
    import_mlflow()
    from tasks.tracking.mlflow_sink import MlflowSink

    return MlflowSink(uri, artifact_root)
