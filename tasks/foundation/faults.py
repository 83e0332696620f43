"""Fault points: places where a test lets a process die, hang or run out of something. Nothing happens without one.

`TUNELINE_FAULT=<site>:<n>:<action>[:<rank>]` lets the n-th passage (from 1) of a site in each process act, on one rank
only where a rank is given. `TUNELINE_FAULT_ONCE=<file>` lets it act once for all processes and restarts together: the
first one to act makes the file, and nobody acts where it is.

Actions: `kill` (SIGKILL), `term` (SIGTERM to itself), `enospc`, `error`, `hang`, `oom` and `nan` (the site asks for
the last one itself, see `poisoned`).
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tasks.foundation.errors import ConfigError

VARIABLE = "TUNELINE_FAULT"
ONCE = "TUNELINE_FAULT_ONCE"

SITES = (
    "track.journal",
    "track.send",
    "track.commit",
    "artifact.build",
    "artifact.file",
    "artifact.manifest",
    "artifact.rename",
    "artifact.done",
    "embed.step",
    "vocabulary.step",
    "vocabulary.write",
    "prepare.write",
    "tokenize.batch",
    "tokenize.write",
    "launch.start",
    "launch.started",
    "train.load",
    "train.batch",
    "train.step",
    "train.logged",
    "train.evaluate",
    "checkpoint.stage",
    "checkpoint.weights",
    "checkpoint.optimizer",
    "checkpoint.rng",
    "checkpoint.file",
    "checkpoint.manifest",
    "checkpoint.rename",
    "checkpoint.renamed",
    "checkpoint.retain",
    "checkpoint.delete",
    "train.finish",
    "train.save",
    "train.result",
    "merge.shard",
    "merge.prove",
    "evaluate.batch",
    "evaluate.write",
    "register.package",
    "register.upload",
    "register.version",
    "register.alias",
    "register.done",
    "promote.begin",
    "promote.previous",
    "promote.champion",
    "promote.done",
)
"""Every name that `reach` is called with, in the order of a run; a test holds the two against each other. A site is
passed just before what its name says, one in the past tense (and `….done`) just after it."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fail() -> None:
    raise RuntimeError("a fault was asked for")


def _hang() -> None:
    while True:
        time.sleep(3600)


def _out_of_memory() -> None:
    raise MemoryError("a fault was asked for")


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": _kill,
    "term": _terminate,
    "enospc": _full,
    "error": _fail,
    "hang": _hang,
    "oom": _out_of_memory,
}
_POISON = "nan"


class _Fault:
    """What one value of the variable asks for."""

    def __init__(self, text: str) -> None:
        self.site, passage, self.action, self._rank = [*text.split(":"), "", "", "", ""][:4]
        whole = passage.isdecimal() and (self._rank or "0").isdecimal()
        if not (whole and self.site in SITES and self.action in {*ACTIONS, _POISON}):
            raise ConfigError(
                f"{text} is no fault",
                where=VARIABLE,
                allowed=f"<site>:<n>:<action>[:<rank>] with the sites {', '.join(SITES)} and the actions "
                f"{', '.join([*ACTIONS, _POISON])}",
                fix="Unset it: it is for tests",
            )
        self._passage = int(passage)
        self._passages = itertools.count(1)

    def is_due(self) -> bool:
        """Count a passage; True when it is the one to act at."""
        if self._rank and os.environ.get("RANK", "0") != self._rank:
            return False
        return next(self._passages) == self._passage and self._is_first()

    def _is_first(self) -> bool:
        marker = os.environ.get(ONCE)
        if not marker:
            return True
        try:
            with Path(marker).open("x", encoding="utf-8") as file:
                file.write(f"{self.site} {self.action} pid {os.getpid()}\n")
        except FileExistsError:
            return False
        return True


_is_set = bool(os.environ.get(VARIABLE))
"""Decided once per process: looking into the environment takes 20 times as long as the rest of a passage."""


def arm() -> None:
    """Read the environment again: for a forked child that has just been given another one, and to be told of a mistake.

    Raises:
        ConfigError: TUNELINE_FAULT names no fault.
    """
    global _is_set
    _asked.cache_clear()
    _is_set = bool(os.environ.get(VARIABLE))
    if _is_set:
        _asked()


def reach(site: str) -> None:
    """Pass a site.

    Raises:
        ConfigError: TUNELINE_FAULT names no fault.
    """
    if _is_set and (fault := _asked()).site == site and fault.action != _POISON and fault.is_due():
        ACTIONS[fault.action]()


def poisoned(site: str) -> bool:
    """True where a test wants a value that is not finite here: the n-th passage of a site with the action `nan`."""
    return _is_set and (fault := _asked()).site == site and fault.action == _POISON and fault.is_due()


@cache
def _asked() -> _Fault:
    return _Fault(os.environ[VARIABLE])
