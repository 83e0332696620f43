"""Ranks on the pods of one Kubernetes Job, which share the runs folder (docs/kubernetes.md)."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
import uuid
from typing import Literal

from pydantic import Field

from tasks.foundation.errors import CancelledRunError, ConfigError, RankError
from tasks.launch.invitations import POD_ADDRESS, POD_IP, Exchange, Invitation, exchange_folder, meeting, variables
from tasks.launch.launchers._base import Launcher
from tasks.launch.launchers.local import LocalGang, start_agent
from tasks.launch.ownership import this_process
from tasks.launch.protocol import GangJob

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_BROKEN_SECONDS = 5.0
"""How long ranks get to end by themselves once those of another pod have failed, and as long after SIGTERM. Over NCCL
they would wait for them until somebody takes it for a hang."""
_MARGIN_SECONDS = 10.0
"""Beyond the grace, for the other pods to see that a gang is over and to say that theirs has ended."""


class PodsLauncher(Launcher):
    """`pods`: torchrun on all pods of a Job that `tuneline manifest` wrote; the pipeline runs in the first one."""

    launcher: Literal["pods"] = "pods"
    nodes: int = Field(default=2, gt=1)
    """Pods of the Job, the first one included."""

    @property
    def node_count(self) -> int:
        return self.nodes

    def start(self, job: GangJob) -> PodsGang:
        """Invite the other pods, and start this pod's share.

        Raises:
            ConfigError: this is not a pod of such a Job.
            ResourceError: the system refuses another process, or the shared folder cannot be written.
        """
        folder, address = exchange_folder(os.environ), os.environ.get(POD_ADDRESS)
        if folder is None or address is None:
            fix = "Write a Job with `tuneline manifest`, or set distributed.launcher: local"
            raise ConfigError("this is not a pod of a Job for several pods", where="distributed.launcher", fix=fix)
        invitation = Invitation(
            id=uuid.uuid4().hex,
            owner=str(this_process()),
            endpoint=f"{address}:{_free_port()}",
            job=job.model_copy(update={"request": job.request.absolute(), "log": job.log.absolute()}),
        )
        exchange = Exchange(folder)
        exchange.invite(invitation)
        try:
            own = start_agent(job, meeting(invitation, os.environ[POD_IP], is_host=True), variables(os.environ[POD_IP]))
        except BaseException:
            exchange.withdraw(invitation.id)
            raise
        return PodsGang(own, exchange, invitation)


class PodsGang:
    """This pod's agent, and what the other pods say of theirs."""

    def __init__(self, own: LocalGang, exchange: Exchange, invitation: Invitation) -> None:
        self._own = own
        self._exchange = exchange
        self._id = invitation.id
        self._others = invitation.job.layout.nodes - 1
        self._code: int | None = None
        self._broken_at = math.inf

    def poll(self) -> int | None:
        """The exit code of this pod's share; 32 where it had to be ended since another pod's ranks had failed."""
        if self._code is None:
            self._code = self._own.poll()
            if self._code is None and self._is_broken():
                log.warning("ending the ranks here: those on %s failed", sorted(self._exchange.failed(self._id)))
                self._own.cancel(_BROKEN_SECONDS)
                own = self._own.poll()
                self._code = RankError.exit_code if own in (None, CancelledRunError.exit_code) else own
            if self._code is not None:
                self._exchange.withdraw(self._id)
        return self._code

    def _is_broken(self) -> bool:
        """Whether ranks of another pod failed some time ago, and those here are still there."""
        if self._exchange.failed(self._id):
            self._broken_at = min(self._broken_at, time.monotonic())
        return time.monotonic() - self._broken_at >= _BROKEN_SECONDS

    def status(self) -> str:
        if self._own.poll() is not None:
            return ""
        missing = self._others - len(self._exchange.joined(self._id))
        return f"waiting for {missing} of {self._others} other pods" if missing > 0 else ""

    def dump_stacks(self) -> None:
        self._exchange.ask_for_stacks(self._id)
        self._own.dump_stacks()

    def cancel(self, grace_seconds: float) -> None:
        """Withdraw the invitation, which ends the other pods' shares, and end this one."""
        self._exchange.withdraw(self._id)
        self._own.cancel(grace_seconds)
        deadline = time.monotonic() + grace_seconds + _MARGIN_SECONDS
        while left := self._exchange.joined(self._id) - self._exchange.ended(self._id):
            if time.monotonic() > deadline:
                log.warning("the pods %s did not say that their ranks ended", ", ".join(sorted(left)))
                return
            time.sleep(_LOOK_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
