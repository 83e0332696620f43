"""Deployments, schedules, work pool and accelerator limit on Prefect's server, made or brought up to date.

What only the installation knows follows it at every call: entrypoint, form, folder, environment, description, overlap.
What the page lets a person change is written once, when the object is made, and is that person's from then on: cron
and time zone, whether a schedule is on, default parameters, the size of the limit. What is as it should be is not
written at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from configs.choices import Choices
from flows.accelerators import LIMIT_VARIABLE
from flows.declared import DeploymentEntry, ScheduleEntry
from tasks.foundation.values import Value

POOL: Final = "tuneline"
LIMIT: Final = "tuneline-accelerators"
TAG: Final = "tuneline"


class Change(Value):
    """What was done about one object."""

    kind: Literal["work pool", "limit", "deployment", "schedule", "automation", "block"]
    name: str
    what: tuple[str, ...] | None = None
    """What was changed; nothing where it was as it should be; None where the object was made."""

    def __str__(self) -> str:
        did = "created" if self.what is None else f"changed ({', '.join(self.what)})" if self.what else "unchanged"
        return f"{self.kind} {self.name}: {did}"


def ensure_pool(client: SyncPrefectClient) -> Change:
    """A pool for process workers; one that is there already stays as it is, whatever its type."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        return Change(kind="work pool", name=POOL)
    return Change(kind="work pool", name=POOL, what=())


def ensure_limit(client: SyncPrefectClient, slots: int | None, here: int) -> Change:
    """The places for cells that train, merge or evaluate.

    Args:
        slots: how many; None leaves an existing limit as it is.
        here: accelerators of this machine; without any there is one place.
    """
    try:
        existing = client.read_global_concurrency_limit_by_name(LIMIT)
    except ObjectNotFound:
        wanted = slots or max(here, 1)
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=wanted))
        return Change(kind="limit", name=f"{LIMIT} ({wanted})")
    wanted = slots or existing.limit
    if wanted != existing.limit:
        client.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(limit=wanted))
    what = (f"limit {existing.limit} to {wanted}",) if wanted != existing.limit else ()
    return Change(kind="limit", name=f"{LIMIT} ({wanted})", what=what)


def ensure_deployment(
    client: SyncPrefectClient, entry: DeploymentEntry, folder: Path, offered: Choices
) -> tuple[UUID, list[Change]]:
    """A deployment and its schedules; its id, and what was done.

    Args:
        folder: the working directory of its runs.
        offered: the drop-downs of its form.
    """
    flow = entry.flow()
    wanted = _wanted(entry, folder, offered)
    name = f"{flow.name}/{entry.name}"
    try:
        existing = client.read_deployment_by_name(name)
    except ObjectNotFound:
        made = client.create_deployment(
            flow_id=client.create_flow(flow), name=entry.name, parameters=entry.parameters, tags=[TAG], **wanted
        )
        changes = [Change(kind="deployment", name=name)]
        return made, changes + [_add_schedule(client, made, schedule) for schedule in entry.schedules]
    wanted["job_variables"] = _with_added(existing.job_variables or {}, wanted["job_variables"])
    different = {key: value for key, value in wanted.items() if _present(existing, key) != value}
    if different:
        client.update_deployment(existing.id, DeploymentUpdate(**different))
    changes = [Change(kind="deployment", name=name, what=tuple(different))]
    known = {schedule.slug for schedule in existing.schedules}
    for schedule in entry.schedules:
        there = Change(kind="schedule", name=schedule.slug, what=())
        changes.append(there if schedule.slug in known else _add_schedule(client, existing.id, schedule))
    return existing.id, changes


def _wanted(entry: DeploymentEntry, folder: Path, offered: Choices) -> dict[str, Any]:
    """What follows the installation, under the names of a deployment's fields."""
    flow, limit = entry.flow(), entry.concurrency_limit
    environment = {LIMIT_VARIABLE: LIMIT, "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows"}
    return {
        "entrypoint": entry.entrypoint,
        "description": flow.description,
        "work_pool_name": entry.work_pool.name,
        "job_variables": {"working_dir": str(folder), "env": environment},
        "parameter_openapi_schema": form_of(flow.parameters.model_dump(), offered),
        "enforce_parameter_schema": True,
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": ConcurrencyOptions(collision_strategy=limit.collision_strategy) if limit else None,
    }


def _with_added(there: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, and what a person has put beside it, such as a variable that a secret block holds."""
    environment = {**there.get("env", {}), **ours["env"]}
    return {**there, **ours, "env": environment}


def _present(existing: DeploymentResponse, key: str) -> Any:
    """What the server has under the name of a field; it reads a limit back under another name."""
    if key == "concurrency_limit":
        return existing.global_concurrency_limit.limit if existing.global_concurrency_limit else None
    return getattr(existing, key)


def form_of(schema: Mapping[str, Any], offered: Choices) -> dict[str, Any]:
    """The form of a flow's arguments, with a drop-down wherever the choices are known."""
    known = offered.model_dump(mode="json")
    fields = {
        name: field | ({"enum": known[name]} if name in known else {}) for name, field in schema["properties"].items()
    }
    return {**schema, "properties": fields}


def _add_schedule(client: SyncPrefectClient, deployment: UUID, entry: ScheduleEntry) -> Change:
    schedule = DeploymentScheduleCreate(
        schedule=CronSchedule(cron=entry.cron, timezone=entry.timezone),
        active=entry.active,
        parameters=entry.parameters,
        slug=entry.slug,
    )
    client.create_deployment_schedules(deployment, [schedule])
    return Change(kind="schedule", name=entry.slug)
