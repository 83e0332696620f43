"""In which order the children of a process end. Peers of a dead rank follow within milliseconds: nobody else knows.

What a killed rank leaves behind ends soon: its peers wait for it in a collective, where they hear no SIGTERM, and
torchrun would give them 30 s.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.launch.guard import kill_descendants

_INTERVAL_SECONDS = 0.02
_BY_SIGNAL = (os.CLD_KILLED, os.CLD_DUMPED)
_PEERS_SECONDS = 2.0
"""How long the peers of a rank that a signal ended get to end by themselves. One that failed has told them why."""


class Deaths:
    """Watches from a thread, and leaves the children to whoever waits for them (Linux; elsewhere it knows nothing)."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, frozenset[int]]] = []
        if sys.platform == "linux":
            threading.Thread(target=self._watch, name="deaths", daemon=True).start()

    def place(self, pid: int) -> float:
        """Less than that of any child that ended later.

        One that was waited for before this could look is told by the deaths at which it was still there.
        """
        order = [seen for seen, _ in self._seen]
        return order.index(pid) if pid in order else sum(pid in there for _, there in self._seen) - 0.5

    def _watch(self) -> None:
        while True:
            with suppress(ChildProcessError):  # none so far
                self._look()
            time.sleep(_INTERVAL_SECONDS)

    def _look(self) -> None:
        """Those that ended between two looks are told apart by how: a killed rank is why its peers fail, never so."""
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # sleeps until there is one
        there = _children()
        for ended in sorted(_ended(there), key=lambda one: not _was_killed(one)):
            self._note(ended, there)

    def _note(self, ended: os.waitid_result, there: frozenset[int]) -> None:
        if _is_adopted(ended.si_pid):
            os.waitpid(ended.si_pid, os.WNOHANG)  # what a dead child left behind: nobody else waits for it
        elif all(ended.si_pid != pid for pid, _ in self._seen):
            self._seen.append((ended.si_pid, there))
            if ended.si_code in _BY_SIGNAL:
                _start_timer()


def _children() -> frozenset[int]:
    """Of all threads; ended ones too, until somebody has waited for them.

    The kernel's own list is quick: while psutil looks at every process, torchrun may wait for one of these.
    """
    try:
        texts = [file.read_text() for file in Path("/proc/self/task").glob("*/children")]
    except OSError:  # a thread has just ended
        texts = []
    pids = {int(pid) for text in texts for pid in text.split()}
    return frozenset(pids or (child.pid for child in psutil.Process().children()))


def _ended(children: frozenset[int]) -> list[os.waitid_result]:
    """Those that nobody has waited for yet."""
    found = []
    for pid in sorted(children):
        with suppress(ChildProcessError):  # somebody has by now
            found.append(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    return [ended for ended in found if ended is not None]


def _was_killed(ended: os.waitid_result) -> bool:
    """SIGTERM is what torchrun sends to the peers."""
    return ended.si_code in _BY_SIGNAL and ended.si_status != signal.SIGTERM


def _start_timer() -> None:
    timer = threading.Timer(_PEERS_SECONDS, kill_descendants)
    timer.daemon = True
    timer.start()


def _is_adopted(pid: int) -> bool:
    """Children of our own are in our session, or lead one."""
    try:
        return os.getsid(pid) not in (pid, os.getsid(0))
    except ProcessLookupError:
        return False
