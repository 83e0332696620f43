"""Bring the services up in order, bring them down in reverse, say how they are."""

from __future__ import annotations

import shlex
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.artifacts import write_durably
from tasks.foundation.errors import ConflictError, DependencyError
from tasks.services import postgres
from tasks.services.catalogue import MLFLOW_ADMIN, WORKER, Service, mlflow_auth_file, mlflow_auth_path
from tasks.services.healthy import State, fetch, state_of, wait_until_healthy
from tasks.services.layout import Stack, make_folders
from tasks.services.passwords import provide_secrets, read_secrets
from tasks.services.processes import make_way, running, start, stop

Say = Callable[[str], None]

_OF_THE_WORKER_ALONE = ("PREFECT_HOME", "PREFECT_WORKER_QUERY_SECONDS")


def up(stack: Stack, environment: Mapping[str, str], say: Say) -> dict[str, str]:
    """Start what does not run, wait until all is healthy, and write the file of variables for the user's shell.

    Returns:
        These variables: what a process needs to use the stack. They hold passwords.

    Raises:
        ConfigError: a secret is weak or cannot be kept.
        ConflictError: somebody else starts or stops this stack.
        DependencyError: a service ended, or is not healthy in time.
        ResourceError: a port is taken, a program or a user is missing, the disk is full.
    """
    make_folders(stack)
    with _alone(stack):
        passwords = provide_secrets(stack.secrets, environment)
        write_durably(Path(mlflow_auth_path(stack.place)), mlflow_auth_file(stack.place))
        for service in stack.services:
            if running(stack, service) is None:
                make_way(stack, service)
        waiting = list(stack.services)
        healthy: set[str] = set()
        while waiting:
            wave = [service for service in waiting if healthy.issuperset(service.needs)]
            _bring_up(stack, wave, passwords, say)
            healthy.update(service.name for service in wave)
            waiting = [service for service in waiting if service not in wave]
        variables = client_environment(stack, passwords)
        write_durably(stack.environment_file, _environment_text(variables))
        return variables


def down(stack: Stack, say: Say) -> None:
    """Stop everything, last started first. What the services have stored stays.

    Raises:
        ConflictError: somebody else starts or stops this stack.
    """
    with _alone(stack):
        for service in reversed(stack.services):
            if stop(stack, service):
                say(f"{service.name} stopped")


def status(stack: Stack) -> tuple[State, ...]:
    """How each service is.

    Raises:
        ConfigError: a secret cannot be read.
    """
    passwords = read_secrets(stack.secrets)
    return tuple(state_of(stack, service, passwords) for service in stack.services)


def client_environment(stack: Stack, passwords: Mapping[str, str]) -> dict[str, str]:
    """What a process needs to use the stack, as the worker does. It holds passwords."""
    worker = next(service for service in stack.services if service.name == "worker")
    values = {name: value for name, value in worker.settings.items() if name not in _OF_THE_WORKER_ALONE}
    return values | {variable: passwords[name] for variable, name in worker.secrets.items()}


def _environment_text(values: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def _bring_up(stack: Stack, wave: list[Service], passwords: dict[str, str], say: Say) -> None:
    """Services that do not need each other start side by side."""
    new = [service for service in wave if running(stack, service) is None]
    for service in new:
        if service.name == "postgres":
            postgres.make_cluster(stack, passwords["postgres"])
        start(stack, service, passwords)
    for service in wave:
        wait_until_healthy(stack, service, passwords)
        _fill(stack, service, passwords)
        if service in new:
            say(f"{service.name} is up")


def _fill(stack: Stack, service: Service, passwords: dict[str, str]) -> None:
    """What others need of a service; also of one that runs, since an earlier `up` may have been cut off before this."""
    if service.name == "postgres":
        postgres.make_databases(stack.place.postgres, passwords)
    elif service.name == "mlflow":
        _make_worker_user(f"http://{stack.place.mlflow}", passwords)


def _make_worker_user(mlflow: str, passwords: Mapping[str, str]) -> None:
    users = f"{mlflow}/api/2.0/mlflow/users"
    admin = f"{MLFLOW_ADMIN}:{passwords['mlflow-admin']}"
    try:
        if not _knows(f"{users}/get?username={WORKER}", admin):
            fetch(f"{users}/create", admin, {"username": WORKER, "password": passwords["mlflow-worker"]})
    except urllib.error.HTTPError as error:
        fix = "If its password was changed in MLflow, put that one into this file"
        what = f"MLflow does not let {MLFLOW_ADMIN} make the user {WORKER}: {error}"
        raise DependencyError(what, where="secrets/mlflow-admin", fix=fix) from None


def _knows(url: str, user_and_password: str) -> bool:
    try:
        fetch(url, user_and_password)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True


@contextmanager
def _alone(stack: Stack) -> Iterator[None]:
    lock = FileLock(stack.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConflictError(
            "somebody else is starting or stopping this stack", where=str(stack.folder), fix="Wait until it is done"
        ) from None
    try:
        yield
    finally:
        lock.release()
