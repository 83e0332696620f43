"""A TCP proxy with the outages of real networks."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Literal

Mode = Literal["pass", "refuse", "black hole", "error 500", "lose answers"]

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"


class Proxy:
    """Forwards to a port of this machine, or does not.

    `black hole` accepts and never answers; `lose answers` lets the server work and drops what it says.
    """

    def __init__(self, target: int) -> None:
        self.mode: Mode = "pass"
        self.refused = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End all connections, also those that are kept alive."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def turn(self, mode: Mode) -> None:
        """Behave like this from now on, for old connections too."""
        self.mode = mode
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, self.mode), daemon=True).start()

    def _serve(self, client: socket.socket, mode: Mode) -> None:
        if mode != "pass":
            self.refused += 1
        if mode in ("pass", "lose answers"):
            with contextlib.suppress(OSError):
                self._forward(client, mode)
        elif mode == "error 500":
            with contextlib.suppress(OSError):
                client.recv(1 << 16)
                client.sendall(_ERROR)
            client.close()
        elif mode == "refuse":
            client.close()
        else:
            self._open.append(client)

    def _forward(self, client: socket.socket, mode: Mode) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        self._open += [client, server]
        forth = threading.Thread(target=_pump, args=(client, server), daemon=True)
        forth.start()
        _pump(server, client if mode == "pass" else None)
        if mode == "lose answers":
            client.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket | None) -> None:
    """Copy until the end; without a sink, hang up at the first answer."""
    with contextlib.suppress(OSError):
        while (data := source.recv(1 << 16)) and sink is not None:
            sink.sendall(data)
        if sink is not None:
            sink.shutdown(socket.SHUT_WR)
