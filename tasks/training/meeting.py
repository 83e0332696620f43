"""The ranks of a gang meet: one process group for everything that follows, or a plain word on who cannot be reached."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import time
from datetime import timedelta

import psutil
import torch
from torch import distributed

from tasks.foundation.errors import DependencyError, ResourceError
from tasks.launch.layout import Layout

log = logging.getLogger(__name__)

_RENDEZVOUS_SECONDS = 300.0
"""How long a rank knocks at the rendezvous. The launcher has let all nodes meet there already: ranks of one gang start
within the seconds that differ between the nodes' disks."""

_KNOCK_SECONDS = 5.0
"""Of one attempt, and the pause that follows a refusal."""

_FIX = "Check names, routes and firewalls between the nodes, and GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME"


def meet(layout: Layout, seconds: float) -> None:
    """Make the default process group, where there is more than one rank or the engine wants one; twice does nothing.

    Over NCCL on accelerators, over gloo on CPUs; `seconds` bounds every collective of the group from then on.

    Raises:
        ResourceError: this rank has no accelerator where it must have one.
        DependencyError: the rendezvous or another rank cannot be reached, with address and interface.
    """
    if distributed.is_initialized() or "RANK" not in os.environ or (layout.ranks == 1 and layout.engine == "ddp"):
        return
    if layout.device == "cuda":
        take_accelerator()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if layout.nodes > 1:
        check_announced_address(host)
    if os.environ["RANK"] != "0":
        knock(host, port, min(seconds, _RENDEZVOUS_SECONDS))
    try:
        distributed.init_process_group(
            "nccl" if layout.device == "cuda" else "gloo", timeout=timedelta(seconds=seconds)
        )
    except (RuntimeError, ValueError, OSError) as error:  # torch has no common class for what a network does
        first_line = str(error).partition("\n")[0]
        what = f"{_this_rank()} cannot join the others ({first_line})"
        raise DependencyError(what, where=f"rendezvous {host}:{port}", fix=_FIX) from error
    log.info("%s met %d others at %s:%d", _this_rank(), layout.ranks - 1, host, port)


def take_accelerator() -> int:
    """Make this rank's accelerator the current one; its number on this node.

    Raises:
        ResourceError: there is none, or it cannot be used.
    """
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        what = f"local rank {index} has no accelerator: {count} are visible on {socket.gethostname()}"
        fix = "Lower distributed.ranks_per_node, or set distributed.accelerator: cpu"
        raise ResourceError(what, where="distributed", fix=fix)
    try:
        torch.cuda.set_device(index)
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        what = f"accelerator {index} on {socket.gethostname()} cannot be used ({first_line})"
        raise ResourceError(what, fix="`nvidia-smi` there says more") from error
    return index


def knock(host: str, port: int, seconds: float) -> None:
    """Return once the rendezvous takes connections.

    Raises:
        DependencyError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=_KNOCK_SECONDS):
                return
        except OSError as error:
            if time.monotonic() + _KNOCK_SECONDS > deadline:
                what = f"{_this_rank()} cannot reach it within {seconds:.0f} s ({error})"
                raise DependencyError(what, where=f"rendezvous {host}:{port}", fix=_FIX) from error
            time.sleep(min(1.0, seconds / 10))


def check_announced_address(master: str) -> None:
    """Gloo tells the other nodes an address of this one; one that only this node can reach would hang all of them.

    Raises:
        DependencyError: this node would announce a loopback address, or has no such interface.
    """
    named = os.environ.get("GLOO_SOCKET_IFNAME", "")
    addresses = _addresses(named) if named else _resolved(socket.gethostname())
    if not addresses:
        known = ", ".join(sorted(psutil.net_if_addrs()))
        what = f"{_this_rank()} has no address on interface {named!r}" if named else f"{_this_rank()} has no address"
        raise DependencyError(what, where="GLOO_SOCKET_IFNAME", allowed=known, fix=_FIX)
    if all(_is_loopback(address) for address in addresses) and not any(map(_is_loopback, _resolved(master))):
        what = f"{_this_rank()} would announce {addresses[0]}, which other nodes cannot reach"
        fix = "Set GLOO_SOCKET_IFNAME to the interface between the nodes, or mend the host's name in /etc/hosts"
        raise DependencyError(what, where=f"interface {named or 'of the host name'}", fix=fix)


def _addresses(interface: str) -> list[str]:
    found = psutil.net_if_addrs().get(interface, [])
    return [entry.address for entry in found if entry.family in (socket.AF_INET, socket.AF_INET6)]


def _resolved(name: str) -> list[str]:
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _this_rank() -> str:
    named = os.environ.get("GLOO_SOCKET_IFNAME") or os.environ.get("NCCL_SOCKET_IFNAME")
    over = f" over {named}" if named else ""
    return f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}{over}"
