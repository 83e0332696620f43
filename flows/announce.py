"""Events on Prefect's bus, for automations and webhooks of the user's own. A courtesy: nothing fails for want of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from prefect.events import emit_event

from tasks.registry.values import RegisteredVersion

log = logging.getLogger(__name__)

REGISTERED = "tuneline.candidate.registered"
PROMOTED = "tuneline.model.promoted"
ROLLED_BACK = "tuneline.model.rolled_back"


def announce_registered(version: RegisteredVersion | None) -> None:
    """A candidate stands in the registry, new or found again; None where nothing was registered."""
    if version is not None:
        facts: dict[str, str | int | None] = {"version": version.version, "alias": version.alias, "run": version.run_id}
        announce(REGISTERED, version.name, facts)


def announce(event: str, model: str, payload: Mapping[str, str | int | None]) -> None:
    """Say that something has happened to a registered model, `tuneline.model.<name>` on the bus."""
    resource = {"prefect.resource.id": f"tuneline.model.{model}", "prefect.resource.name": model}
    try:
        emit_event(event, resource=resource, payload=dict(payload))
    except Exception as error:  # whatever keeps Prefect from taking it
        log.warning("event %s of %s was not sent: %s: %s", event, model, type(error).__name__, error)
