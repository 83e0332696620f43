"""`mlflow models serve` as a process of ours: started with what it needs and no more, asked, ended in order."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.foundation.errors import ConfigError, DependencyError, ResourceError, TunelineError, shortage
from tasks.foundation.values import Value
from tasks.launch.environment import QUIET, helper_environment
from tasks.launch.logs import cap
from tasks.launch.ownership import OWNER
from tasks.launch.starting import start_process

_START_SECONDS = 1800
"""Only a limit for what never comes up: large models load for minutes."""
_GRACE_SECONDS = 20
"""How long requests under way may take when the server is told to end."""
_LOOK_SECONDS = 0.3
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (asked for here, not bound)
_SETTINGS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONDONTWRITEBYTECODE": "1",  # a folder stays as it was verified
    "PYTHONUNBUFFERED": "1",
}
_ERROR_LINE = re.compile(r"^(?:[\w.]*(?:Error|Exception|ERROR)\b.*|bash: .*)", re.MULTILINE)


class Place(Value):
    """Where a model is served."""

    host: str
    port: int
    workers: int

    @property
    def url(self) -> str:
        """Under which this machine reaches it."""
        host = _ANYWHERE.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def check_free(self) -> None:
        """Refuse what cannot be bound.

        Raises:
            ConfigError: no port, or no address of this machine.
            ResourceError: somebody else listens there.
        """
        if not 0 < self.port < 65536:
            raise ConfigError(f"{self.port} is no port", where="--port", allowed="1 to 65535", fix="Choose another")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise taken(self.port) from None
            if error.errno == errno.EACCES:
                what = f"port {self.port} is for the administrator only"
                raise ConfigError(what, where="--port", allowed="1024 to 65535", fix="Choose another") from None
            fix = "127.0.0.1 for this machine only, 0.0.0.0 for everybody who can reach it"
            raise ConfigError(f"{self.host} is no address of this machine", where="--host", fix=fix) from None


def taken(port: int) -> ResourceError:
    """The error of a port that somebody else has."""
    return ResourceError(f"port {port} is in use", where="tuneline serve", fix="Choose another with --port")


class ModelServer:
    """One server over one folder. `with` ends it."""

    def __init__(self, model: Path, place: Place, scratch: Path, log: Path) -> None:
        """Start it.

        Args:
            scratch: a folder of its own, for MLflow's temporary files.
            log: where its output goes.
        """
        self._place, self._log = place, log
        self._family: set[psutil.Process] = set()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", str(model)]
        command += ["--host", place.host, "--port", str(place.port), "--workers", str(place.workers)]
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        with log.open("ab") as output:  # to append, so that it can be cut while it is written
            self._process = start_process(
                lambda: subprocess.Popen(
                    command,
                    cwd=scratch,
                    env=_environment(scratch),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def wait_until_up(self) -> None:
        """Return when it answers.

        Raises:
            ResourceError: memory or disk ran out.
            DependencyError: it ended for another reason, or did not answer in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None:
                raise self._cause("did not start")
            if time.monotonic() > deadline:
                raise self._cause(f"did not answer within {_START_SECONDS} s")
            time.sleep(_LOOK_SECONDS)
        self._family = _family_of(self._process.pid)

    def wait_until_ended(self) -> None:
        """Watch it; by itself it ends only for a reason.

        Raises:
            ResourceError: memory or disk ran out.
            DependencyError: it ended for another reason.
        """
        while self._process.poll() is None:
            cap(self._log)
            time.sleep(_LOOK_SECONDS)
        raise self._cause("ended")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._place.url}/ping", timeout=5):  # noqa: S310  (our own server)
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _cause(self, what: str) -> TunelineError:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        errors = [match.group().strip() for match in _ERROR_LINE.finditer(text)]
        said = next((line for line in reversed(errors) if "returned non zero" not in line), "it did not say why")
        if (short := shortage(RuntimeError(said))) is not None:
            return short
        return DependencyError(f"the model server {what}: {said}", where=str(self._log), fix="This file says more")

    def _stop(self) -> None:
        """MLflow's command, its shell's successor and that one's workers: all are told, and waited for."""
        family = self._family | _family_of(self._process.pid)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(family, _GRACE_SECONDS)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, _GRACE_SECONDS)


def ask_line(place: Place, prompt: str) -> str:
    """A command that asks the server, ready to be pasted into a shell."""
    body = json.dumps({"dataframe_records": [{"prompt": prompt}]}, ensure_ascii=False)
    return f"curl {place.url}/invocations -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _family_of(pid: int) -> set[psutil.Process]:
    """A process and all below it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    return set()


def _environment(scratch: Path) -> dict[str, str]:
    """No secrets, no tracking server, no network: the files are here, and nobody needs to be asked.

    MLflow finds its own server by PATH.
    """
    kept = {
        name: value
        for name, value in helper_environment(dict(os.environ)).items()
        if not name.startswith(("MLFLOW_TRACKING_", "MLFLOW_REGISTRY_"))
    }
    path = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), kept.get("PATH")]))
    places = {"PATH": path, "TMPDIR": str(scratch)}
    return kept | QUIET | _SETTINGS | places | {OWNER: os.environ[OWNER]}
