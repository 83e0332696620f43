"""Fault points: places where a test lets a process die, hang or run out of something. Nothing happens without one.

`TUNELINE_FAULT=<site>:<n>:<action>[:<rank>]` lets the n-th passage (from 1) of a site in each process act, on one rank
only where a rank is given. Actions: `kill` (SIGKILL), `term` (SIGTERM to itself), `enospc`, `error`, `hang`, `oom` and
`nan` (the site asks for the last one itself, see `poisoned`).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

VARIABLE = "TUNELINE_FAULT"

SITES = (
    "prepare.write",
    "tokenize.write",
    "artifact.build",
    "artifact.file",
    "artifact.manifest",
    "artifact.rename",
    "artifact.done",
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
    "evaluate.sample",
    "evaluate.write",
    "register.package",
    "register.upload",
    "register.version",
    "register.alias",
    "track.journal",
    "track.send",
)
"""Every name that `reach` is called with, in the order of a run; a test holds the two against each other."""


class _Plan(NamedTuple):
    site: str
    passage: int
    action: str
    rank: str | None


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
    "nan": lambda: None,
}

_passages: Counter[str] = Counter()


def reach(site: str) -> None:
    """Pass a site. Costs a look into the environment's copy when no fault is asked for."""
    plan = _plan()
    if plan is not None and plan.site == site and _is_due(plan):
        ACTIONS[plan.action]()


def poisoned(site: str) -> bool:
    """True where a test wants a value that is not finite here: the n-th passage of a site with the action `nan`."""
    plan = _plan()
    return plan is not None and plan.site == site and plan.action == "nan" and _is_due(plan)


def _plan() -> _Plan | None:
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    site, passage, action, rank = [*text.split(":"), None][:4]
    if site not in SITES or action not in ACTIONS:
        raise ValueError(f"{VARIABLE}={text}: <site>:<n>:<action>[:<rank>], sites {SITES}, actions {tuple(ACTIONS)}")
    return _Plan(str(site), int(str(passage)), str(action), rank)


def _is_due(plan: _Plan) -> bool:
    if plan.rank is not None and os.environ.get("RANK", "0") != plan.rank:
        return False
    _passages[plan.site] += 1
    return _passages[plan.site] == plan.passage
