"""`tuneline stack`: the team's services as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from configs.experiment import Paths
from tasks.foundation.errors import ConfigError, DependencyError, ResourceError
from tasks.services import lifecycle
from tasks.services.layout import FOLDER, Ports, Stack, find_stack, place_of, stack_folder
from tasks.services.processes import running
from tasks.tracking import redact

_LOOK_SECONDS = 1.0


def start_stack(ports: Ports, console: Console, *, foreground: bool) -> None:
    """Start what does not run, and say where it is; in the foreground, stay until Ctrl-C and stop all of it.

    Raises:
        TunelineError: it cannot be started, or a service ended while we stayed.
    """
    stack = _chosen(ports)
    try:
        variables = lifecycle.up(stack, os.environ, lambda line: _say(line, console))
        _set_up_orchestration(variables, console)
        _say_where(stack, console)
        if foreground:
            _say("Ctrl-C stops all of it.", console)
            _watch(stack)
    finally:
        if foreground:
            lifecycle.down(stack, lambda line: _say(line, console))


def _set_up_orchestration(variables: Mapping[str, str], console: Console) -> None:
    """Deployments, limits and automations on the stack's Prefect, by `tuneline setup-orchestration` in a process of its
    own: Prefect reads its settings once, when it is imported.

    Raises:
        DependencyError: Prefect does not take them.
    """
    command = [sys.executable, "-m", "flows", "setup-orchestration"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        said = redact(done.stderr).strip().rpartition("\n")[2].removeprefix("tuneline: ")
        what = f"the deployments cannot be made: {said or f'exit code {done.returncode}'}"
        raise DependencyError(what, where="tuneline setup-orchestration", fix="Mend it, then tuneline stack up again")
    for line in done.stdout.splitlines():
        if not line.endswith(": unchanged"):
            _say(line, console)


def stop_stack(console: Console) -> None:
    """Stop everything; where nothing runs, or nothing was ever started, that is fine."""
    if stack := find_stack(stack_folder(os.environ)):
        lifecycle.down(stack, lambda line: _say(line, console))
    _say("The stack is down.", console)


def show_stack(console: Console) -> int:
    """A table of the services. Exit code 0 if all are healthy, 20 if another program has a port, 21 otherwise."""
    found = lifecycle.status(_existing())
    table = Table(box=None, pad_edge=False)
    for column in ("service", "pid", "address", "healthy"):
        table.add_column(column, overflow="fold")
    for state in found:
        table.add_row(state.name, str(state.pid or "-"), str(state.address or "-"), state.problem or "yes")
    console.print(table, highlight=False, markup=False)
    if any(state.port_is_taken for state in found):
        return ResourceError.exit_code
    return DependencyError.exit_code if any(state.problem for state in found) else 0


def environment_file() -> Path:
    """The file to `source`.

    Raises:
        ConfigError: the stack was never up.
    """
    stack = _existing()
    if not stack.environment_file.exists():
        raise ConfigError("the stack was never up", where=str(stack.folder), fix="tuneline stack up")
    return stack.environment_file


def _chosen(ports: Ports) -> Stack:
    """The stack as it is to be; a service that runs keeps its settings."""
    folder = stack_folder(os.environ)
    stack = Stack(folder=folder, place=place_of(folder, ports, Paths.from_environment(os.environ).runs.absolute()))
    before = find_stack(folder) or stack
    for old, new in zip(before.services, stack.services, strict=True):
        if old != new and running(before, old):
            fix = "tuneline stack down, then up again; or up without options, where it was started"
            raise ConfigError(f"{old.name} runs with other settings", where=str(folder), fix=fix)
    return stack


def _existing() -> Stack:
    folder = stack_folder(os.environ)
    if (stack := find_stack(folder)) is None:
        raise ConfigError("there is no stack", where=str(folder), fix=f"tuneline stack up, or set {FOLDER}")
    return stack


def _watch(stack: Stack) -> None:
    while all(running(stack, service) for service in stack.services):
        time.sleep(_LOOK_SECONDS)
    gone = next(service.name for service in stack.services if not running(stack, service))
    raise DependencyError(f"{gone} ended", where=str(stack.log(gone)), fix="This file says why; then start it again")


def _say_where(stack: Stack, console: Console) -> None:
    admin, shared = (_short(stack.secrets / name) for name in ("mlflow-admin", "prefect-auth"))
    _say(f"MLflow   {stack.place.mlflow_page}    user admin, password in {admin}", console)
    _say(f"Prefect  {stack.place.prefect_page}    password in {shared}, with user and colon", console)
    _say(f"Shell    source {_short(stack.environment_file)}", console)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _say(line: str, console: Console) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
