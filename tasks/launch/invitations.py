"""How the pods of a Job find each other's gangs: small files in a shared folder, each written once and atomically.

`<id>.json` invites to a gang and is there as long as the gang is wanted. Beside it lie `<id>.<pod>.joined`, `….ended`
and `….failed`, by which a pod answers, and `<id>.<pod>.stacks`, by which it is asked for the stacks of its ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.values import Value
from tasks.launch.protocol import GangJob

log = logging.getLogger(__name__)

EXCHANGE = "TUNELINE_PODS"
"""The shared folder; `tuneline manifest` sets these three."""
POD_ADDRESS = "TUNELINE_POD_ADDRESS"
"""A name of the first pod that all pods resolve, in the first pod only."""
POD_IP = "TUNELINE_POD_IP"
"""Of each pod."""


_JOIN_SECONDS = 86_400
"""How long agents wait for each other: a pod may be pending for as long as a cluster is full, as a job in a queue."""


class Invitation(Value):
    """To one gang."""

    id: str
    owner: str
    """The pipeline's process (`tasks.launch.ownership`): what an earlier one left is not meant any more."""
    endpoint: str
    """Where the agents meet: `host:port` in the first pod."""
    job: GangJob


def exchange_folder(environment: Mapping[str, str]) -> Path | None:
    """The shared folder, in a pod of such a Job."""
    return Path(environment[EXCHANGE]) if EXCHANGE in environment and POD_IP in environment else None


def meeting(invitation: Invitation, own_ip: str, *, is_host: bool) -> list[str]:
    """torchrun's arguments for one pod: explicit addresses, because names of pods are not known at once everywhere."""
    layout = invitation.job.layout
    return [
        f"--nnodes={layout.nodes}",
        f"--nproc-per-node={layout.ranks_per_node}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={invitation.endpoint}",
        f"--rdzv-id={invitation.id}",
        f"--rdzv-conf=is_host={'true' if is_host else 'false'},join_timeout={_JOIN_SECONDS}",
        f"--local-addr={own_ip}",
    ]


def variables(own_ip: str) -> dict[str, str]:
    """The interface that carries the pod's address: what the collectives announce must be what others reach."""
    carrying = [name for name, entries in psutil.net_if_addrs().items() if any(e.address == own_ip for e in entries)]
    return {"GLOO_SOCKET_IFNAME": carrying[0], "NCCL_SOCKET_IFNAME": carrying[0]} if carrying else {}


class Exchange:
    """The shared folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def invite(self, invitation: Invitation) -> None:
        """Publish it, withdraw those of a pipeline that ran here before and broke off, and clear old answers away."""
        for earlier in self.invitations():
            if earlier.owner != invitation.owner:
                self.withdraw(earlier.id)
        for last_word in self.folder.glob("*.ended"):
            if not self.stands(last_word.name.partition(".")[0]):
                for word in ("joined", "failed", "ended"):
                    last_word.with_suffix(f".{word}").unlink(missing_ok=True)
        write_durably(self._path(invitation.id), invitation.model_dump_json())

    def invitations(self) -> Iterator[Invitation]:
        """Those that stand, by id; one that is being withdrawn is passed over."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                yield Invitation.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                log.warning("%s is no invitation (%s)", path, type(error).__name__)

    def stands(self, gang: str) -> bool:
        return self._path(gang).exists()

    def withdraw(self, gang: str) -> None:
        self._path(gang).unlink(missing_ok=True)

    def say(self, gang: str, pod: str, word: str) -> None:
        (self.folder / f"{gang}.{pod}.{word}").touch()

    def joined(self, gang: str) -> set[str]:
        return self._pods(gang, "joined")

    def ended(self, gang: str) -> set[str]:
        return self._pods(gang, "ended")

    def failed(self, gang: str) -> set[str]:
        """Those whose ranks ended badly while the gang was still wanted."""
        return self._pods(gang, "failed")

    def ask_for_stacks(self, gang: str) -> None:
        for pod in self.joined(gang):
            self.say(gang, pod, "stacks")

    def wants_stacks(self, gang: str, pod: str) -> bool:
        """True once each time that they were asked for."""
        try:
            (self.folder / f"{gang}.{pod}.stacks").unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, gang: str) -> Path:
        return self.folder / f"{gang}.json"

    def _pods(self, gang: str, word: str) -> set[str]:
        found = self.folder.glob(f"{gang}.*.{word}")
        return {path.name.removeprefix(f"{gang}.").removesuffix(f".{word}") for path in found}
