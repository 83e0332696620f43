"""A way to a server of this machine that can be broken: refused, answered with errors, or swallowed."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Literal

Mode = Literal["pass", "refuse", "error 500", "black hole"]

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
_CHUNK = 1 << 16


class Proxy:
    """Forwards what comes to a port of its own, for as long as its mode is `pass`."""

    def __init__(self, target: int) -> None:
        """`target`: the port of the server."""
        self._target = target
        self._mode: Mode = "pass"
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.troubled = 0
        """Connections that met with the trouble."""

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _hang_up(self._listener)
        self._listener.close()
        self.turn("refuse")

    def turn(self, mode: Mode) -> None:
        """From now on; connections that stand are ended."""
        with self._lock:
            self._mode = mode
            for connection in self._connections:
                _hang_up(connection)
            self._connections.clear()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            with self._lock:
                self._connections.append(client)
                mode = self._mode
                self.troubled += mode != "pass"
            if mode == "pass":
                self._forward(client)
            elif mode == "error 500":
                client.recv(_CHUNK)
                client.sendall(_ERROR)
            elif mode == "black hole":
                while client.recv(_CHUNK):
                    pass

    def _forward(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            there = threading.Thread(target=_copy, args=(client, server), daemon=True)
            there.start()
            _copy(server, client)
            _hang_up(client)
            there.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _hang_up(connection: socket.socket) -> None:
    """Wakes whoever reads from it; its reader closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
