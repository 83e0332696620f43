"""Is a service well, and if it is not, why?"""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tasks.foundation.errors import DependencyError, TunelineError
from tasks.foundation.values import Value
from tasks.launch.reap import carrying
from tasks.services import postgres
from tasks.services.catalogue import POOL, Address, Service
from tasks.services.layout import Stack
from tasks.services.passwords import masked
from tasks.services.processes import TOKEN, is_taken, running
from tasks.tracking import redact

_START_SECONDS = 300.0
"""Databases are made at the first start: 17 s on two cores, 94 s where six others wanted each of them."""
_LOOK_SECONDS = 0.3
_ANSWER_SECONDS = 10.0
_END_BYTES = 20_000
_ERROR_LINE = re.compile(r"^.*?\b(FATAL|PANIC|ERROR|[A-Z]\w*(?:Error|Exception))\b:?.*", re.MULTILINE)


class State(Value):
    """What there is to say of a service."""

    name: str
    pid: int | None
    address: Address | None
    problem: str = ""
    """Empty when it is healthy."""
    port_is_taken: bool = False
    """It does not run, and another program listens where it would."""


def state_of(stack: Stack, service: Service, passwords: Mapping[str, str]) -> State:
    """How a service is now."""
    process = running(stack, service)
    if process is None:
        left = carrying(TOKEN, stack.token(service.name))
        taken = service.address is not None and not left and is_taken(service.address)
        problem = "not running; another program has its port" if taken else "not running"
        return State(name=service.name, pid=None, address=service.address, problem=problem, port_is_taken=taken)
    problem = problem_of(service, stack.place.prefect, passwords)
    return State(name=service.name, pid=process.pid, address=service.address, problem=masked(problem, passwords))


def wait_until_healthy(stack: Stack, service: Service, passwords: Mapping[str, str]) -> None:
    """Return when it is.

    Raises:
        DependencyError: it ended, with its last words, or was not healthy in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    problem = ""
    while time.monotonic() < deadline:
        if running(stack, service) is None:
            said = masked(redact(last_words(stack.log(service.name))), passwords)
            raise DependencyError(
                f"{service.name} did not start: {said}",
                where=str(stack.log(service.name)),
                fix="This file says more; mend it, then tuneline stack up again",
            )
        if not (problem := problem_of(service, stack.place.prefect, passwords)):
            return
        time.sleep(_LOOK_SECONDS)
    raise DependencyError(
        f"{service.name} is not healthy after {_START_SECONDS:.0f} s: {masked(problem, passwords)}",
        where=str(stack.log(service.name)),
        fix="This file says more; tuneline stack status looks again",
    )


def problem_of(service: Service, prefect: Address, passwords: Mapping[str, str]) -> str:
    """Why a service that runs is not well; empty when it is."""
    try:
        if service.name == "postgres" and service.address:
            with closing(postgres.connect(service.address, passwords["postgres"])) as server:
                server.execute("SELECT 1")
        elif service.name == "worker":
            return _problem_of_pool(prefect, passwords["prefect-auth"])
        else:
            fetch(f"http://{service.address}{service.health}")
    except (TunelineError, OSError, ValueError) as error:
        return str(error)
    return ""


def fetch(url: str, user_and_password: str = "", body: Mapping[str, str] | None = None) -> Any:
    """An answer in JSON, or as text.

    Raises:
        OSError: there is none, or one that says no.
    """
    request = urllib.request.Request(url)  # noqa: S310  (an address of the stack)
    if user_and_password:
        request.add_header("Authorization", f"Basic {base64.b64encode(user_and_password.encode()).decode()}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
        text = answer.read().decode("utf-8", "replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def last_words(log: Path) -> str:
    """The last line that names an error, else the last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - _END_BYTES, 0))
            text = file.read().decode("utf-8", "replace").strip()
    except OSError as error:
        return str(error)
    errors = [match.group() for match in _ERROR_LINE.finditer(text)]
    return (errors or text.splitlines() or ["it said nothing"])[-1].strip()


def _problem_of_pool(prefect: Address, user_and_password: str) -> str:
    """A pool is ready when some worker asks it for work."""
    try:
        pool = fetch(f"http://{prefect}/api/work_pools/{POOL}", user_and_password)
    except urllib.error.HTTPError as error:
        return f"no work pool {POOL} yet" if error.code == 404 else str(error)
    return "" if pool["status"] != "NOT_READY" else f"no worker asks the pool {POOL} for work"
