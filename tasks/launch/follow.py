"""`python -m tasks.launch.follow`: what every pod but the first runs: it joins each gang to which it is invited.

It ends with its pod only, on SIGTERM, and never with 0: a pod that succeeded is not replaced, and the Job may still
need one (a node that is drained). When the Job is over nobody asks how its other pods ended.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from tasks.foundation.errors import CancelledRunError, ConfigError
from tasks.launch.gangs import GRACE_SECONDS
from tasks.launch.invitations import EXCHANGE, POD_IP, Exchange, Invitation, exchange_folder, meeting, variables
from tasks.launch.launchers.local import LocalGang, start_agent
from tasks.launch.logs import cap

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2


class Follower:
    """One pod's share of the gangs."""

    def __init__(self, exchange: Exchange, pod: str, ip: str) -> None:
        self._exchange = exchange
        self._pod = pod
        self._ip = ip
        self._gangs: dict[str, LocalGang] = {}
        self._logs: dict[str, Path] = {}
        self._done: set[str] = set()

    def look(self) -> None:
        """Join what is new, end what is not wanted any more, and pass on what is asked."""
        for invitation in self._exchange.invitations():
            if invitation.id not in self._done and invitation.id not in self._gangs:
                self._join(invitation)
        for gang in sorted(self._gangs):
            cap(self._logs[gang])
            if self._exchange.wants_stacks(gang, self._pod):
                self._gangs[gang].dump_stacks()
            if self._gangs[gang].poll() is not None or not self._exchange.stands(gang):
                self._end(gang)

    def end_all(self) -> None:
        for gang in sorted(self._gangs):
            self._end(gang)

    def _join(self, invitation: Invitation) -> None:
        log.info("joining %s, gang %s", invitation.job.name, invitation.id)
        own_log = invitation.job.log.with_name(f"{invitation.job.log.stem}-{self._pod}.txt")
        job = invitation.job.model_copy(update={"log": own_log})
        self._logs[invitation.id] = own_log
        self._exchange.say(invitation.id, self._pod, "joined")
        self._gangs[invitation.id] = start_agent(job, meeting(invitation, self._ip, is_host=False), variables(self._ip))

    def _end(self, gang: str) -> None:
        """By itself or with SIGTERM; the first pod waits for the word."""
        if self._gangs[gang].poll() not in (None, 0) and self._exchange.stands(gang):
            self._exchange.say(gang, self._pod, "failed")
        self._gangs[gang].cancel(GRACE_SECONDS)
        log.info("gang %s ended here with %s", gang, self._gangs[gang].poll())
        del self._gangs[gang], self._logs[gang]
        self._done.add(gang)
        self._exchange.say(gang, self._pod, "ended")


def main() -> int:
    """Follow until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    folder = exchange_folder(os.environ)
    if folder is None:
        error = ConfigError(f"{EXCHANGE} or {POD_IP} is not set", fix="Start it through `tuneline manifest`")
        sys.stderr.write(f"tuneline: {error}\n")
        return error.exit_code
    follower = Follower(Exchange(folder), socket.gethostname(), os.environ[POD_IP])
    ending: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda seen, frame: ending.append(seen))
    while not ending:
        follower.look()
        time.sleep(_LOOK_SECONDS)
    follower.end_all()
    return CancelledRunError.exit_code


if __name__ == "__main__":
    sys.exit(main())
