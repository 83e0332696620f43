"""Where the nodes of a job reach each other. To itself a host's name often means loopback, so names are not trusted.

The first node asks Slurm for the addresses of all; each node then looks which of its interfaces carries its own.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from tasks.launch.invitations import variables

_ANY_PORT = 9
"""UDP's discard port: nothing is sent, only the route is looked up."""


def reachable_addresses(names: Sequence[str]) -> list[str]:
    """The numeric address of every node, from the first node, where this runs.

    Args:
        names: the address or name of each node, as Slurm has it, the first node's first.

    Raises:
        OSError: a name has no address.
    """
    found = [resolve(name) for name in names]
    others = [address for address in found[1:] if not _is_loopback(address)]
    if _is_loopback(found[0]) and others:
        found[0] = address_towards(others[0])
    return found


def own_address(addresses: Sequence[str], node: int) -> str:
    """This node's address: the one that the first node has for it or, where no interface carries that, the one from
    which the route to the others starts."""
    if variables(addresses[node]):
        return addresses[node]
    return address_towards(addresses[0] if node else addresses[-1])


def resolve(name: str) -> str:
    """The numeric address of a name, an IPv4 one where it has one."""
    entries = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    return str(sorted(entries, key=lambda entry: entry[0] != socket.AF_INET)[0][4][0])


def address_towards(other: str) -> str:
    """The address of this host that packets to another one leave with."""
    family = socket.AF_INET6 if ":" in other else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((other, _ANY_PORT))
        return str(probe.getsockname()[0])


def endpoint(address: str, port: int) -> str:
    """`host:port`, as torchrun takes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def free_port_near(start: int, address: str) -> int:
    """A port of this node that nobody listens on, beginning with the job's own so that two jobs seldom look alike."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(start, start + 100):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    return start


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
