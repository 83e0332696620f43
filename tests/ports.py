"""Ports of this machine for tests: one that refuses, and one for a server that is about to start."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST, _COUNT = 20_000, 12_000
"""Below the ports that systems hand out by themselves (from 32768, 49152), so that no connection and no other server
gets one between our look and the start of the server for which it is meant."""

_SPREAD = 97
"""Processes that run tests side by side begin so far apart, however close their ids are."""

_offsets = itertools.count(os.getpid() * _SPREAD)


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses every connection: it is bound, so that nobody else can get it, and nobody listens."""
    with socket.socket() as held:
        port = free_port()
        held.bind(("127.0.0.1", port))
        yield port


def free_port() -> int:
    """A port on which nobody listens, another one at each call."""
    while True:
        port = _FIRST + next(_offsets) % _COUNT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
