"""Serve the model that an alias names, and follow the alias when it moves, without losing a request.

    MLFLOW_TRACKING_URI=http://mlflow:5000 python infra/serve/follow.py NAME@champion --port 5001 --every 10

A small proxy listens at --port and hands every request to `tuneline serve NAME:VERSION` at a port above it. When the
alias names another version, that one is started beside the old one; once it answers, new requests go to it, and the old
one ends after its last answer. A version that does not start, or whose files are not what was registered, leaves the
old one serving, is said to do so, and is not tried again until the alias moves (a registry that is away: it is).
Both are in memory for the moment of the change. SIGTERM and Ctrl-C answer what was asked, then end everything.
"""

import argparse
import http.client
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tasks.foundation.errors import DependencyError, TunelineError
from tasks.launch.starting import start_process
from tasks.tracking import TrackingSettings

ANSWER_SECONDS = 600
MOST_BYTES = 16 << 20
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


class Server:
    """`tuneline serve` of one version at a port of its own."""

    def __init__(self, name: str, version: int, port: int) -> None:
        self.version, self.port, self.busy = version, port, 0
        command = [sys.executable, "-m", "flows", "serve", f"{name}:{version}", "--port", str(port)]
        # It ends when we do, even when we are killed; but Ctrl-C is for us, who let it answer first.
        self.process = start_process(
            lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        )

    def comes_up(self) -> bool:
        """Wait until it answers (True) or ends (False); it has then said why on standard error."""
        try:
            while self.process.poll() is None:
                with suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5).close()
                    return True
                time.sleep(0.2)
        except BaseException:  # we are told to end meanwhile
            self.end()
            raise
        return False

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait()


class Switch:
    """Which server gets the next request, and who is still waiting for which one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.current: Server | None = None

    @contextmanager
    def borrowed(self) -> Iterator[Server | None]:
        with self._changed:
            server = self.current
            if server:
                server.busy += 1
        try:
            yield server
        finally:
            with self._changed:
                if server:
                    server.busy -= 1
                self._changed.notify_all()

    def turn_to(self, new: Server | None) -> None:
        """From now on `new` is asked; the one before ends when it has answered everybody."""
        with self._changed:
            old, self.current = self.current, new
            if old:
                self._changed.wait_for(lambda: old.busy == 0, ANSWER_SECONDS)
        if old:
            old.end()


class Proxy(BaseHTTPRequestHandler):
    """Hands a request to the current server, and its answer back."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    """Seconds after which a connection that says nothing is closed."""
    switch: Switch

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True  # what follows is not read
            self._answer(413 if length.isdecimal() else 411, b"a body of known length, 16 MiB at most\n", {})
        else:
            self._pass_on(self.rfile.read(int(length)))

    def _pass_on(self, body: bytes) -> None:
        with self.switch.borrowed() as server:
            if server is None:
                return self._answer(503, b"no version is up\n", {"Retry-After": "5"})
            there = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS)
            try:
                kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                there.request(self.command, self.path, body or None, kind)
                answer = there.getresponse()
                headers = {name: text for name, text in answer.getheaders() if name.lower() not in HOP_BY_HOP}
                self._answer(answer.status, answer.read(), headers | {"X-Model-Version": str(server.version)})
            except (OSError, http.client.HTTPException) as error:
                self._answer(502, f"version {server.version} did not answer: {error}\n".encode(), {})
            finally:
                there.close()

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet: the servers keep their own logs."""


class ProxyServer(ThreadingHTTPServer):
    """One thread per connection."""

    request_queue_size = 128


def follow(name: str, alias: str, port: int, every: float, switch: Switch) -> None:
    """Look where the alias stands, again and again, and serve that version; `port` and the next are for servers."""
    refused = 0
    while True:
        current = switch.current
        if current and current.process.poll() is not None:
            say(f"version {current.version} ended by itself")
            switch.turn_to(None)
        wanted = standing(name, alias)
        if wanted and wanted != refused and (switch.current is None or switch.current.version != wanted):
            say(f"{alias} is version {wanted}: starting it")
            new = Server(name, wanted, port + 1 if switch.current and switch.current.port == port else port)
            if new.comes_up():
                switch.turn_to(new)
                say(f"version {wanted} answers now")
            else:
                # A server that is away comes back; files that were changed stay so.
                refused = wanted if new.end() != DependencyError.exit_code else 0
                kept = f"version {switch.current.version} goes on" if switch.current else "nothing is served"
                say(f"version {wanted} did not start; {kept}")
        time.sleep(every)


def standing(name: str, alias: str) -> int | None:
    """The version that the alias names now; None, and a word of it, where that cannot be known."""
    from tasks.tracking.lookup import Lookup

    try:
        version = Lookup(TrackingSettings()).version(name, "", alias)
    except TunelineError as error:
        say(str(error))
        return None
    if version is None:
        say(f"there is no {name}@{alias}")
    return version.version if version else None


def say(text: str) -> None:
    print(f"{time.strftime('%F %T')} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME@ALIAS")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5001, help="of the proxy; the two above it are for the versions")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks at the alias")
    asked = parser.parse_args()
    name, _, alias = asked.model.partition("@")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Proxy.switch = switch = Switch()
    proxy = ProxyServer((asked.host, asked.port), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        follow(name, alias or "champion", asked.port + 1, asked.every, switch)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        proxy.shutdown()
        switch.turn_to(None)


if __name__ == "__main__":
    main()
