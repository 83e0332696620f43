"""Prefect as a guest in our working directory: its home, its log level, and a server of our own where none is named."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.foundation.errors import DependencyError, ResourceError, TunelineError
from tasks.launch.guard import PARENT
from tasks.launch.starting import start_process
from tasks.tracking import redact

HOST = "127.0.0.1"
PAGE_PORT = 4200
"""Where `tuneline ui` shows Prefect's page unless told otherwise."""
_START_SECONDS = 120
_QUIET_SECONDS = 2
"""A server of the user's that has not answered by then is spoken of: nobody should have to guess what is waited for."""
_STOP_SECONDS = 5
_SEND_SECONDS = 10
_SHORT_PATIENCE = {"PREFECT_CLIENT_MAX_RETRIES": "3", "PREFECT_CLIENT_RETRY_JITTER_FACTOR": "0"}
"""For a server of our own, which does not come back: Prefect waits 2, 4 and 8 s between its tries, for the table, for
the state `Completed` and for the state `Failed`. The user's own may come back: Prefect's default is 62 s each."""

_SPARE_BYTES = 1_000_000
"""A database with less room than this does not start."""

_DISK_FULL = re.compile(r"No space left on device|disk is full|disk quota exceeded|file too large", re.IGNORECASE)
_ERROR_LINE = re.compile(r"^[\w.]*(Error|Exception)\b.*", re.MULTILINE)


@dataclass(frozen=True)
class OwnServer:
    """The server that we started, and where its output goes."""

    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise the cause of its end, if it has ended.

        Raises:
            ResourceError: the disk is full.
            DependencyError: anything else; its output says what.
        """
        if self.process.poll() is not None:
            raise self._cause()

    def _cause(self) -> TunelineError:
        text = self.log.read_text(encoding="utf-8", errors="replace").strip()
        errors = [match.group() for match in _ERROR_LINE.finditer(text)] or text.splitlines()[-1:]
        said = errors[-1] if errors else f"exit code {self.process.returncode}"
        if _DISK_FULL.search(text) or shutil.disk_usage(self.log.parent).free < _SPARE_BYTES:
            fix = "Free some space and run it again"
            return ResourceError(f"the disk is full, Prefect's server ended: {said}", where=str(self.log), fix=fix)
        return DependencyError(
            f"Prefect's server did not start: {said}",
            where=str(self.log),
            fix="This file says more; mend it, run again",
        )

    def stop(self) -> None:
        """End it, in order if it can; one that the system does not let go of is not waited for."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)


def quiet_prefect() -> None:
    """Defaults for what Prefect says and sends; what the user has set wins."""
    defaults = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",  # its inner workings: to our log file, not to the terminal
        "PREFECT_LOGGING_LOGGERS_PREFECT_INTERNAL_PROPAGATE": "true",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def configure_prefect(home: Path) -> None:
    """Defaults for our use of Prefect; what the user has set wins, and PREFECT_API_URL names another server."""
    quiet_prefect()
    os.environ.setdefault("PREFECT_RESULTS_PERSIST_BY_DEFAULT", "false")
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(home.absolute()))
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(home.absolute() / "profiles.toml"))
        os.environ.setdefault("PREFECT_UI_URL", f"http://{HOST}:{PAGE_PORT}")


@contextmanager
def prefect_server(log: Path) -> Iterator[OwnServer | None]:
    """One of our own for as long as this process lives; none where PREFECT_API_URL names the user's.

    Prefect would start one by itself, which outlives us when we are killed, and only when the flow begins; ours ends
    with its parent and starts while the rest is being imported.

    Raises:
        ResourceError: it cannot be started.
    """
    if "PREFECT_API_URL" in os.environ:
        try:
            yield None
        finally:
            send_what_is_left()
        return
    port = free_port()
    server = start_server(port, log)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    for name, value in _SHORT_PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            send_what_is_left()
        del os.environ["PREFECT_API_URL"]
        server.stop()


def send_what_is_left() -> None:
    """Prefect sends logs and events from threads of its own, and retries for long where no server is left."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_SEND_SECONDS)


def start_server(port: int, log: Path) -> OwnServer:
    """Start the server without waiting for it; its output goes to a file.

    It has a session of its own: Ctrl-C, and whatever else a terminal or a scheduler sends to the group, reaches the
    pipeline only, which needs the server to say how the run ended.

    Raises:
        ResourceError: the file cannot be written, or the system refuses another process.
    """
    command = [sys.executable, "-m", "flows.prefect_server", str(port)]
    loud = {f"PREFECT_LOGGING_HANDLERS_{name}_LEVEL": "ERROR" for name in ("CONSOLE", "DEBUG")}
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = start_process(
                lambda: subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | loud | {PARENT: str(os.getpid())},
                    start_new_session=True,
                )
            )
    except OSError as error:
        what = f"Prefect's server cannot be started: {error.strerror}"
        raise ResourceError(what, where=str(log), fix="Make room or allow it") from error
    return OwnServer(process, log)


def wait_for_server(own: OwnServer | None, say: Callable[[str], None]) -> None:
    """Return when the server that PREFECT_API_URL names answers.

    Args:
        own: the server that we started; None for the user's.
        say: gets one line where the user's server does not answer at once.

    Raises:
        ResourceError: it is our own, and ended for want of disk.
        DependencyError: it does not answer.
    """
    url = os.environ["PREFECT_API_URL"]
    started, said = time.monotonic(), False
    while (waited := time.monotonic() - started) < _START_SECONDS:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310  (the user's own setting)
                return
        except (urllib.error.URLError, OSError):
            if own:
                own.check()
            elif waited > _QUIET_SECONDS and not said:
                say(f"Prefect's server at {redact(url)} does not answer; waiting up to {_START_SECONDS} s for it.")
                said = True
            time.sleep(0.1)
    if own:
        what = f"Prefect's server did not answer within {_START_SECONDS} s"
        raise DependencyError(what, where=str(own.log), fix="Run it again when the machine is less busy")
    what = f"no Prefect server answers at {redact(url)}"
    raise DependencyError(what, where="PREFECT_API_URL", fix="Start it, or unset it")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])
