from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from benchmarks.outages import windows
from benchmarks.parts.proxy import Proxy
from tasks.training.recording import MetricLine


class Answer(BaseHTTPRequestHandler):
    """Says `well`."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"well")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def way() -> Iterator[Proxy]:
    """A proxy before a server."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server, Proxy(server.server_address[1]) as proxy:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield proxy
        server.shutdown()


def ask(way: Proxy) -> bytes:
    with closing(urllib.request.urlopen(way.uri, timeout=120)) as answer:  # noqa: S310 - our own server
        return bytes(answer.read())


def test_the_way_to_a_server_can_be_broken_and_mended(way: Proxy) -> None:
    assert ask(way) == b"well"
    way.turn("error 500")
    with pytest.raises(urllib.error.HTTPError, match="500"):
        ask(way)
    way.turn("refuse")
    with pytest.raises(OSError, match=r".+"):
        ask(way)
    way.turn("pass")
    assert ask(way) == b"well"
    assert way.troubled == 2


def test_a_black_hole_takes_everything_and_answers_nothing_until_it_is_over(way: Proxy) -> None:
    way.turn("black hole")
    with socket.create_connection(("127.0.0.1", int(way.uri.rpartition(":")[2]))) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        way.turn("pass")
        client.settimeout(120)
        assert client.recv(1) == b""


def test_a_window_counts_everything_between_its_first_and_its_last_step() -> None:
    ends = [10 * at for at in range(50)] + [490 + 20 * at for at in range(1, 51)]
    lines = [MetricLine(step=at, timestamp_ms=end, values={}) for at, end in enumerate(ends, start=1)]
    assert windows(lines, ("pass", "refuse"), 50) == [("pass", 10.0), ("refuse", 20.0)]
