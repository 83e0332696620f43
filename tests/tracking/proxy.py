"""A TCP proxy with the outages of real networks."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Literal

Mode = Literal["pass", "refuse", "black hole", "error 500", "lose answers", "slow"]

_SLOW_SECONDS = 0.5
_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"


class Proxy:
    """Forwards to a port of this machine, or does not.

    `black hole` accepts and never answers; `lose answers` lets the server work and drops what it says;
    `slow` hands every part of an answer on after a while.
    """

    def __init__(self, target: int) -> None:
        self.mode: Mode = "pass"
        self.refused = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shut(self._listener)
        self._listener.close()
        self.turn("refuse")

    def turn(self, mode: Mode) -> None:
        """Behave like this from now on: all connections are ended, also those that are kept alive."""
        with self._lock:
            self.mode = mode
            for connection in self._open:
                _shut(connection)
            self._open.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            mode = self._keep(client)
            if mode in ("pass", "lose answers", "slow"):
                self._forward(client, mode)
            elif mode == "error 500":
                client.recv(1 << 16)
                client.sendall(_ERROR)
            elif mode == "black hole":
                while client.recv(1 << 16):
                    pass

    def _keep(self, client: socket.socket) -> Mode:
        """The mode in which this connection is served: it lasts no longer than the mode."""
        with self._lock:
            self._open.append(client)
            self.refused += self.mode != "pass"
            return self.mode

    def _forward(self, client: socket.socket, mode: Mode) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            _pump(server, None if mode == "lose answers" else client, _SLOW_SECONDS if mode == "slow" else 0.0)
            _shut(client)


def _shut(connection: socket.socket) -> None:
    """Wake whoever reads from it, here and at the other end; its reader closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket | None, delay_seconds: float = 0.0) -> None:
    """Copy until the end; without a sink, hang up at the first answer."""
    with contextlib.suppress(OSError):
        while (data := source.recv(1 << 16)) and sink is not None:
            time.sleep(delay_seconds)
            sink.sendall(data)
    if sink is not None:
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
