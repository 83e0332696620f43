"""`tuneline reconcile`."""

from __future__ import annotations

import os
import time

from rich.console import Console

from configs.experiment import Paths
from flows.guarding import log_to
from flows.orchestration import configure_prefect, prefect_server, wait_for_server
from tasks.workspace import Workspace


def reconcile_runs(uri: str | None, every: float | None, console: Console, *, all_hosts: bool) -> None:
    """Close what dead processes left open and say what that was; once, or again and again until Ctrl-C."""
    here = Workspace(runs=Paths.from_environment(os.environ).runs.absolute())
    log_to(here.runs / "reconcile.log")
    configure_prefect(here.prefect)
    while True:
        close_left_open(here, uri, console, all_hosts=all_hosts)
        if every is None:
            return
        time.sleep(every)


def close_left_open(here: Workspace, uri: str | None, console: Console, *, all_hosts: bool) -> None:
    """One pass. A Prefect server of our own is started only where there may be something to tell it."""
    from flows.reconcile import close_flow_runs, close_runs, tracking_of

    closed, unsent = close_runs(here, tracking_of(uri), all_hosts=all_hosts)
    flow_runs: list[str] = []
    if any(here.flow_runs.glob("*.owner")):
        with prefect_server(here.runs / "prefect-server.log") as own:
            wait_for_server(own)
            flow_runs = close_flow_runs(here, all_hosts=all_hosts)
    lines = [f"MLflow: closed {name} as KILLED" for name in closed]
    lines += [f"Prefect: closed {name}" for name in flow_runs]
    if unsent:
        lines.append(f"MLflow did not take {unsent} events yet; they are kept and sent at the next start.")
    for line in lines or ["Nothing was left open."]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
