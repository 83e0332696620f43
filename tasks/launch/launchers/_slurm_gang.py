"""A job in Slurm's queue as a gang: looked at now and then, never believed to be more than it says."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path

from tasks.foundation.errors import CancelledRunError, DependencyError, RankError, ResourceError, TunelineError
from tasks.launch.launchers import _slurm_client as client
from tasks.launch.launchers._slurm_client import JobView
from tasks.launch.launchers._slurm_exits import last_exit, read_exit

log = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.5, 10.0
"""Between two looks: short after a change, then longer and longer, as a controller with many users likes it."""
_SLOWER = 1.3
_CANCEL_LOOK_SECONDS = 0.2

_CANCELLED, _DIED = CancelledRunError.exit_code, RankError.exit_code
_ENDS = {
    "COMPLETED": 0,
    "FAILED": _DIED,
    "CANCELLED": _CANCELLED,
    "DEADLINE": _CANCELLED,
    "REVOKED": _CANCELLED,
    "OUT_OF_MEMORY": ResourceError.exit_code,
    "TIMEOUT": _CANCELLED,
    "PREEMPTED": _CANCELLED,
    "NODE_FAIL": _DIED,
    "BOOT_FAIL": _DIED,
}
"""States in which a job is over, and what that means where nothing says more."""
_NOT_ITS_FAULT = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})
"""Ends after which it goes on from its checkpoint, once it gets nodes again."""
_WORDS = {"PENDING": "queued", "CONFIGURING": "the nodes are being made ready", "COMPLETING": "ending"}


class SlurmGang:
    """One job, however often Slurm starts it."""

    def __init__(self, job: str, folder: Path, max_requeues: int) -> None:
        """`folder`: where the batch script leaves exit codes; `max_requeues`: how often it goes on after a limit."""
        self.job = job
        self._folder = folder
        self._max_requeues = max_requeues
        self._alone = threading.RLock()
        self._code: int | None = None
        self._view: JobView | None = None
        self._pause = _FIRST_LOOK_SECONDS
        self._due = -math.inf
        self._silent_since: str | None = None
        """The time of day: a text that changed every second would be news every second."""
        self._cancelling = False

    def poll(self) -> int | None:
        with self._alone:
            if self._code is None and self._is_due():
                self._look()
                self._due = time.monotonic() + self._pause
            return self._code

    def status(self) -> str:
        with self._alone:
            if self._silent_since is not None:
                return f"unknown: the controller does not answer since {self._silent_since}"
            return f"job {self.job} was submitted" if self._view is None else described(self._view)

    def dump_stacks(self) -> None:
        """To the steps only: the batch script knows SIGUSR1 as something else."""
        self._send("scancel", "--signal=USR1", self.job)

    def cancel(self, grace_seconds: float) -> None:
        """Have the ranks save and end; after the grace they are killed. A job that waits leaves the queue."""
        with self._alone:
            self._cancelling = True
            self._look()
            if self._code is None and self._view is not None and self._view.state == "RUNNING":
                self._send("scancel", "--batch", "--signal=USR2", self.job)
                self._wait(grace_seconds)
            if self._code is None:
                self._send("scancel", self.job)
                self._send("scancel", "--signal=KILL", "--full", self.job)
                self._wait(client.end_margin_seconds())
            if self._code is None:
                log.error("job %s may still be there: see to it with `scancel %s`", self.job, self.job)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._code is None and time.monotonic() < deadline:
            time.sleep(_CANCEL_LOOK_SECONDS)
            self._look()

    def _send(self, *command: str) -> bool:
        try:
            client.ask(command)
        except TunelineError as error:
            log.warning("%s: %s", " ".join(command), error)
            return False
        return True

    def _is_due(self) -> bool:
        """The batch script's own word is seen soon: to look for a file disturbs no controller."""
        restarts = self._view.restarts if self._view else 0
        early = self._pause - _FIRST_LOOK_SECONDS
        now = time.monotonic()
        return now >= self._due or (
            now >= self._due - early and read_exit(self._folder, self.job, restarts) is not None
        )

    def _look(self) -> None:
        try:
            seen = client.look(self.job)
        except DependencyError as error:
            if self._silent_since is None:
                self._silent_since = time.strftime("%H:%M:%S")
                log.warning("job %s: %s", self.job, error)
            self._pause = _LONGEST_LOOK_SECONDS
            return
        self._silent_since = None
        self._pause = min(self._pause * _SLOWER, _LONGEST_LOOK_SECONDS) if seen == self._view else _FIRST_LOOK_SECONDS
        self._view = seen or self._view
        self._code = self._code_of(seen) if seen else self._code_of_vanished()

    def _code_of(self, seen: JobView) -> int | None:
        if seen.state not in _ENDS:
            return None
        if seen.state == "OUT_OF_MEMORY":
            return _ENDS[seen.state]
        own = read_exit(self._folder, self.job, seen.restarts)
        if seen.state == "CANCELLED" or own == 0:
            return own or _ENDS[seen.state]
        if seen.state in _NOT_ITS_FAULT and not self._cancelling and seen.restarts < self._max_requeues:
            log.warning("job %s: %s; back into the queue, it goes on from its checkpoint", self.job, seen.state)
            return None if self._send("scontrol", "requeue", self.job) else own or _ENDS[seen.state]
        return own or seen.exit_code or _ENDS[seen.state]

    def _code_of_vanished(self) -> int:
        """The controller has forgotten it: our own record counts, else the site's; what nobody knows is no success."""
        own = last_exit(self._folder, self.job)
        told = own if own is not None else client.accounted_exit_code(self.job)
        if told is None:
            log.error("Slurm does not know job %s any more, and the job has not said how it ended", self.job)
        return _DIED if told is None else told


def described(view: JobView) -> str:
    """What a person wants to know of a job that does not run; empty for one that does."""
    if view.state == "RUNNING" or view.state in _ENDS:
        return ""
    again = f", restart {view.restarts}" if view.restarts else ""
    reason = f" ({view.reason})" if view.reason != "None" else ""
    return _WORDS.get(view.state, view.state.lower()) + reason + again
