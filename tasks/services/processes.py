"""Services as processes that outlive the command which starts them: start, find again, stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

import psutil
from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.errors import ResourceError
from tasks.launch.guard import PARENT
from tasks.launch.logs import cap
from tasks.launch.ownership import GANG, OWNER, Owner, process_of
from tasks.launch.reap import carrying, end, wait_for_end
from tasks.services import postgres
from tasks.services.catalogue import Address, Service
from tasks.services.layout import Stack, base_environment, working_folder
from tasks.services.passwords import PREFIX

TOKEN = "TUNELINE_SERVICE"  # noqa: S105  (it tells processes apart)
"""In the environment of every process of a service: `<folder>:<name>`."""

_STOP_SECONDS = 25.0
"""How long a service gets: the ranks of a run that its worker has started save a checkpoint meanwhile."""
_REAPING_SECONDS = 5.0
"""The system does it at once, or, in a container without an init, never."""


def running(stack: Stack, service: Service) -> Owner | None:
    """The process that a service is; None where it has ended, whoever has its pid now."""
    found = _last(stack, service)
    return found if found and found.is_here and found.lives else None


def _last(stack: Stack, service: Service) -> Owner | None:
    """The process that a service was when it started last."""
    try:
        return Owner.model_validate_json(stack.record(service.name).read_bytes())
    except (OSError, ValidationError):
        return None


def start(stack: Stack, service: Service, passwords: Mapping[str, str]) -> Owner:
    """Start a service and note its process. It stays when this one ends, and Ctrl-C does not reach it.

    Raises:
        ResourceError: its program is missing.
    """
    identity = postgres.run_as() if service.name == "postgres" else {}
    command = _command(service)
    log = stack.log(service.name)
    cap(log)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=_environment(stack, service, passwords),
            cwd=working_folder(stack, service),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity,
        )
    started = process_of(process.pid)
    write_durably(stack.record(service.name), started.model_dump_json())
    return started


def stop(stack: Stack, service: Service) -> bool:
    """End a service and all that it has started; whether there was anything to end."""
    found = running(stack, service)
    if found:
        with suppress(psutil.Error):
            process = psutil.Process(found.pid)
            process.send_signal(signal.Signals[service.stop_signal])
            end(wait_for_end([process], _STOP_SECONDS), 0)
    left = carrying(TOKEN, stack.token(service.name))
    end(left, _STOP_SECONDS)
    stack.record(service.name).unlink(missing_ok=True)
    return bool(found or left)


def make_way(stack: Stack, service: Service) -> None:
    """Before a start: end what an earlier process of the service has left behind, which would hold its port.

    Raises:
        ResourceError: somebody else listens on its port.
    """
    end(carrying(TOKEN, stack.token(service.name)), _STOP_SECONDS)
    if last := _last(stack, service):
        _wait_until_reaped(last.pid)
    if service.address and is_taken(service.address):
        fix = f"End what listens there, or choose another port with --{service.name}-port"
        raise ResourceError(f"port {service.address.port} is in use by another program", where=service.name, fix=fix)


def _wait_until_reaped(pid: int) -> None:
    """While a killed process is still in the system's table, Postgres takes it for the owner of its lock file."""
    end_of_patience = time.monotonic() + _REAPING_SECONDS
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.status() == psutil.STATUS_ZOMBIE and time.monotonic() < end_of_patience:
            time.sleep(0.05)


def is_taken(address: Address) -> bool:
    """Whether anybody listens there."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address.host, address.port)) == 0


def _command(service: Service) -> list[str]:
    name, *arguments = service.command
    program = [postgres.program(name)] if name == "postgres" else [sys.executable, "-m", name]
    return [*program, *arguments]


def _environment(stack: Stack, service: Service, passwords: Mapping[str, str]) -> dict[str, str]:
    """A server gets what it needs; the worker's flows get all that the user has set, less the stack's own secrets."""
    if service.name == "worker":
        ours = (OWNER, GANG, PARENT)
        base = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith(PREFIX)}
    else:
        base = base_environment(os.environ)
    secret = {variable: passwords[name] for variable, name in service.secrets.items()}
    return base | service.settings | secret | {TOKEN: stack.token(service.name), "PYTHONUNBUFFERED": "1"}
