"""`tuneline setup-orchestration`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from rich.console import Console

from configs.choices import choices
from configs.experiment import Paths
from flows.declared import FILE, DeploymentEntry, read_declared
from flows.guarding import log_to
from flows.orchestration import quiet_prefect
from tasks.foundation.errors import ConfigError, DependencyError
from tasks.launch.slots import accelerators
from tasks.tracking import redact

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from flows.deployments import Change

_MEMORY = "memory"


def set_up(file: Path | None, slots: int | None, no_progress_minutes: float, console: Console) -> None:
    """Make or bring up to date everything on Prefect's server, and say what was done, object by object.

    Raises:
        ConfigError: no server is named, or the file of the deployments is wrong.
        DependencyError: the server cannot be reached, or refuses.
    """
    log_to(Paths.from_environment(os.environ).runs.absolute() / "setup-orchestration.log")
    quiet_prefect()
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    entries = read_declared(file or FILE)
    for entry in entries:
        entry.flow()  # before anything is written: a file with a mistake changes nothing
    url = PREFECT_API_URL.value()
    if not url:
        fix = "Start one (`tuneline ui`, or `prefect server start`) and set it, for example http://127.0.0.1:4200/api"
        raise ConfigError("no Prefect server is named", where="PREFECT_API_URL", fix=fix)
    try:
        with get_client(sync_client=True) as client:
            for change in _changes(client, entries, slots, timedelta(minutes=no_progress_minutes)):
                console.print(str(change), markup=False, highlight=False, soft_wrap=True)
            _warn_of_memory(client, console)
    except httpx.HTTPError as error:
        what = f"Prefect's server at {redact(url)} does not take it ({type(error).__name__}: {redact(str(error))})"
        fix = "Start it, or mend PREFECT_API_URL and PREFECT_API_AUTH_STRING; run this again, nothing is made twice"
        raise DependencyError(" ".join(what.split()), where="PREFECT_API_URL", fix=fix) from error


def _changes(
    client: SyncPrefectClient, entries: tuple[DeploymentEntry, ...], slots: int | None, no_progress: timedelta
) -> Iterator[Change]:
    from flows import automations as made
    from flows.deployments import ensure_deployment, ensure_limit, ensure_pool

    folder = Path.cwd()
    offered = choices(folder)
    yield ensure_pool(client)
    yield ensure_limit(client, slots, len(accelerators()))
    ids = {}
    for entry in entries:
        ids[entry.name], changes = ensure_deployment(client, entry, folder, offered)
        yield from changes
    target = None
    if url := os.environ.get(made.NOTIFY_VARIABLE):
        target, change = made.ensure_target(client, url)
        yield change
    for automation in made.automations(ids, no_progress, target):
        yield made.ensure_automation(client, automation)


def _warn_of_memory(client: SyncPrefectClient, console: Console) -> None:
    """Leases that a server keeps in memory are lost when it restarts, and their places then stay taken for ever."""
    settings = client.request("GET", "/admin/settings").json()
    storage = str(settings.get("server", {}).get("concurrency", {}).get("lease_storage", ""))
    if storage.endswith(_MEMORY):
        console.print(
            "note: this server keeps the leases of limits in memory: a restart in the middle of a run leaves its "
            "places taken. Start it with PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="
            f"{storage.removesuffix(_MEMORY)}filesystem",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
