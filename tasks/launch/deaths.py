"""In which order the children of a process end. Peers of a dead rank follow within milliseconds: nobody else knows.

What a killed rank leaves behind ends soon: its peers wait for it in a collective, where they hear no SIGTERM, and
torchrun would give them 30 s.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress

from tasks.launch.guard import kill_descendants

_INTERVAL_SECONDS = 0.02
_PEERS_SECONDS = 2.0
"""How long the peers of a rank that a signal ended get to end by themselves. One that failed has told them why."""


class Deaths:
    """Watches from a thread, and leaves the children to whoever waits for them (Linux; elsewhere it knows nothing)."""

    def __init__(self) -> None:
        self._seen: list[int] = []
        if sys.platform == "linux":
            threading.Thread(target=self._watch, name="deaths", daemon=True).start()

    def place(self, pid: int) -> int:
        """0 for the child that ended first; children that nobody saw end come after all others."""
        return self._seen.index(pid) if pid in self._seen else len(self._seen)

    def _watch(self) -> None:
        while True:
            with suppress(ChildProcessError):  # none so far
                self._look()
            time.sleep(_INTERVAL_SECONDS)

    def _look(self) -> None:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        pid = ended.si_pid if ended else 0
        if _is_adopted(pid):
            os.waitpid(pid, os.WNOHANG)  # what a dead child left behind: nobody else waits for it
        elif pid not in self._seen:
            self._seen.append(pid)
            if ended and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                _start_timer()


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
