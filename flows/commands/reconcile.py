"""`tuneline reconcile`."""

from __future__ import annotations

import logging
import os
import time

from rich.console import Console

from configs.experiment import Paths
from flows.guarding import log_to
from flows.orchestration import configure_prefect, prefect_server, wait_for_server
from tasks.foundation.errors import ConfigError, ErrorRecord
from tasks.launch.logs import cap
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

NOTHING = "Nothing was left open."


def reconcile_runs(uri: str | None, every: float | None, console: Console, *, all_hosts: bool) -> None:
    """Close what dead processes left open and say what that was; once, or again and again until Ctrl-C.

    Raises:
        ConfigError: a setting is wrong. What passes by (a server that is away, a full disk) ends a single look only:
            one of many says it and looks again.
    """
    here = Workspace(runs=Paths.from_environment(os.environ).runs.absolute())
    log_file = here.runs / "reconcile.log"
    log_to(log_file)
    configure_prefect(here.prefect)
    if every is None:
        _say(close_left_open(here, uri, console, all_hosts=all_hosts) or [NOTHING], console)
        return
    while True:
        _say(_patiently(here, uri, console, all_hosts=all_hosts), console)
        cap(log_file)
        time.sleep(every)


def _patiently(here: Workspace, uri: str | None, console: Console, *, all_hosts: bool) -> list[str]:
    try:
        return close_left_open(here, uri, console, all_hosts=all_hosts)
    except ConfigError:
        raise
    except Exception as error:  # the outermost frame of a loop that is there for the time after outages
        log.error("this look failed: %r", error, exc_info=error)
        return [f"Not this time: {ErrorRecord.of(error).error()}"]


def close_left_open(here: Workspace, uri: str | None, console: Console, *, all_hosts: bool) -> list[str]:
    """One look; what there is to say of it. A Prefect server of our own is started only where it may be needed."""
    from flows.reconcile import close_flow_runs, close_runs, tracking_of

    closed, unsent = close_runs(here, tracking_of(uri), all_hosts=all_hosts)
    flow_runs: list[str] = []
    if any(here.flow_runs.glob("*.owner")):
        with prefect_server(here.runs / "prefect-server.log") as own:
            wait_for_server(own, lambda line: _say([line], console))
            flow_runs = close_flow_runs(here, all_hosts=all_hosts)
    lines = [f"MLflow: closed {name} as KILLED" for name in closed]
    lines += [f"Prefect: closed {name}" for name in flow_runs]
    if unsent:
        lines.append(f"MLflow did not take {unsent} events yet; they are kept and sent at the next start.")
    return lines


def _say(lines: list[str], console: Console) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
