"""One attempt writes a work folder: an older one that somebody believed dead sees that it is over, and ends itself.

`<work>/attempt` names the newest attempt: the pipeline writes it with the request; a job that a scheduler started again
on other nodes adds its own number.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.foundation.errors import CancelledRunError

_FILE = "attempt"


def new_attempt(work: Path) -> str:
    """Begin an attempt in a work folder; any earlier one that still runs is over."""
    attempt = uuid.uuid4().hex
    write_durably(work / _FILE, attempt)
    return attempt


class Fence:
    """One attempt's view of its work folder. Only rank 0 asks; it asks before everything that it writes."""

    def __init__(self, work: Path, attempt: str, environment: Mapping[str, str] = os.environ) -> None:
        """`attempt`: as the request names it; empty for a request that no pipeline wrote, which nothing fences.

        `environment`: where Slurm says which start of which job this is.
        """
        self._path = work / _FILE
        self._attempt = attempt
        self._job = environment.get("SLURM_JOB_ID", "")
        self._restart = int(environment.get("SLURM_RESTART_COUNT") or 0)

    @property
    def name(self) -> str:
        """This attempt's name; two starts of one job differ."""
        return f"{self._attempt} {self._job}.{self._restart}" if self._job else self._attempt

    @property
    def restarted(self) -> bool:
        """Whether a scheduler has started this attempt before, so that something may be left of that."""
        return self._restart > 0

    def take_up(self) -> None:
        """Become the newest attempt: a job that a scheduler started again takes over from its earlier start.

        Raises:
            CancelledRunError: another attempt has begun meanwhile.
        """
        if not self._attempt:
            return
        attempt, _, place = self._read().partition(" ")
        job, _, restart = place.partition(".")
        if attempt != self._attempt or (job == self._job and restart and int(restart) > self._restart):
            raise self._over()
        write_durably(self._path, self.name)

    def check(self) -> None:
        """Raise unless this attempt is the newest.

        Raises:
            CancelledRunError: another attempt has begun meanwhile.
        """
        if self._attempt and self._read() != self.name:
            raise self._over()

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def _over(self) -> CancelledRunError:
        return CancelledRunError(
            "another attempt has begun to train this cell; this one ends without writing anything more",
            where=str(self._path.parent),
            fix="Wait for the other one",
        )
