"""Start a deployment's flow run on the server that PREFECT_API_URL names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL

from flows.reconcile import prefect_client
from tasks.foundation.errors import ConfigError


def start_deployed(name: str, parameters: Mapping[str, Any], *, own_server: bool) -> str:
    """Start it and do not wait; returns its page, where it can be followed.

    Args:
        name: `<flow>/<deployment>`.
        own_server: the server is the temporary one of this process, which nobody can open a page of.

    Raises:
        ConfigError: there is no such deployment, or no server that outlives this process.
    """
    fix = "Set PREFECT_API_URL to a server with a worker, and run `tuneline setup-orchestration` once"
    if own_server:
        raise ConfigError(f"{name} needs a Prefect server that stays", where="PREFECT_API_URL", fix=fix)
    with prefect_client() as client:
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise ConfigError(f"Prefect knows no deployment {name}", where="PREFECT_API_URL", fix=fix) from None
    run = run_deployment(name, parameters=dict(parameters), timeout=0, as_subflow=False)
    return f"{(PREFECT_UI_URL.value() or '').rstrip('/')}/runs/flow-run/{run.id}"
