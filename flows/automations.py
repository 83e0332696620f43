"""What Prefect's server does by itself: after a failure, for a run without progress, and for one that starts late."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.deployments import TAG, Change
from flows.pulse import PROGRESS

BLOCK: Final = "tuneline-notify"
NOTIFY_VARIABLE: Final = "TUNELINE_NOTIFY_URL"
_FLOW_RUN = "prefect.flow-run."
_ENDS = frozenset(f"{_FLOW_RUN}{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling"))
_TRAINING = ("compare-methods", "fine-tune", "nightly")
"""Deployments whose runs show progress. Others wait: for an approval, or for nothing."""


def automations(
    deployments: Mapping[str, UUID], no_progress: timedelta, notify: UUID | None
) -> tuple[AutomationCore, ...]:
    """All of ours.

    Args:
        deployments: ids by name.
        no_progress: how long a run may show none.
        notify: the block of the notifications' target; without one, the page and its events say it.
    """
    ours = [each for name, each in deployments.items() if name != "reconcile"]
    training = [each for name, each in deployments.items() if name in _TRAINING]
    minutes = no_progress.total_seconds() / 60
    crash = ChangeFlowRunState(
        state=StateType.CRASHED, message=f"No progress for {minutes:g} minutes. Run it again to go on from there."
    )
    return (
        _automation(
            "after a failure",
            "Closes what a run that failed or crashed left open in MLflow and Prefect.",
            _reacting(ours, "Failed", "Crashed"),
            [RunDeployment(source="selected", deployment_id=deployments["reconcile"]), *_notice(notify, "failed")],
        ),
        _automation(
            "no progress",
            f"Ends a run as crashed that has shown no progress for {minutes:g} minutes: its process hangs, or is gone.",
            EventTrigger(
                match={"prefect.resource.id": f"{_FLOW_RUN}*"},
                match_related=_of(training),
                for_each={"prefect.resource.id"},
                after={f"{_FLOW_RUN}Running", PROGRESS},
                expect={PROGRESS, *_ENDS},
                posture=Posture.Proactive,
                threshold=1,
                within=no_progress,
            ),
            [crash],
        ),
        _automation(
            "late runs",
            "A run waits for a worker: none is running, or all are busy.",
            _reacting(ours, "Late"),
            _notice(notify, "is late: no worker took it") or [DoNothing()],
        ),
    )


def ensure_automation(client: SyncPrefectClient, wanted: AutomationCore) -> Change:
    """An automation of this name. Whether it is on, and what it does besides, is for people to say."""
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Change(kind="automation", name=wanted.name)
    existing = found[0]
    actions = [*wanted.actions, *(action for action in existing.actions if type(action) not in _kinds(wanted))]
    whole = wanted.model_copy(update={"enabled": existing.enabled, "actions": actions})
    different = tuple(
        key for key in ("description", "trigger", "actions") if _plain(whole, key) != _plain(existing, key)
    )
    if different:  # Prefect leaves out of an update what was never set, `type` among it; its server takes no owner
        set_fields = whole.model_dump(mode="json", exclude={"owner_resource"})
        client.update_automation(existing.id, AutomationCore.model_validate(set_fields))
    return Change(kind="automation", name=wanted.name, what=different)


def ensure_target(client: SyncPrefectClient, url: str) -> tuple[UUID, Change]:
    """The webhook that gets notifications, with its address as a secret; its id, and what was done."""
    kind = client.read_block_type_by_slug("custom-webhook")
    data = {"name": BLOCK, "url": "{{address}}", "json_data": {"text": "{{subject}}\n{{body}}"}}
    data["secrets"] = {"address": url}
    try:
        existing = client.read_block_document_by_name(BLOCK, kind.slug, include_secrets=True)
    except ObjectNotFound:
        schema = client.get_most_recent_block_schema_for_block_type(kind.id)
        made = client.create_block_document(
            BlockDocumentCreate(name=BLOCK, data=data, block_type_id=kind.id, block_schema_id=schema.id),
            include_secrets=True,
        )
        return made.id, Change(kind="block", name=BLOCK)
    if existing.data.get("secrets") == data["secrets"]:
        return existing.id, Change(kind="block", name=BLOCK, what=())
    client.update_block_document(existing.id, BlockDocumentUpdate(data=data))
    return existing.id, Change(kind="block", name=BLOCK, what=("address",))


def _automation(name: str, description: str, trigger: EventTrigger, actions: list[ActionTypes]) -> AutomationCore:
    return AutomationCore(
        name=f"tuneline: {name}", description=description, trigger=trigger, actions=actions, tags=[TAG]
    )


def _reacting(deployments: list[UUID], *states: str) -> EventTrigger:
    return EventTrigger(
        match={"prefect.resource.id": f"{_FLOW_RUN}*"},
        match_related=_of(deployments),
        for_each={"prefect.resource.id"},
        expect={f"{_FLOW_RUN}{state}" for state in states},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _of(deployments: list[UUID]) -> dict[str, Any]:
    return {
        "prefect.resource.role": "deployment",
        "prefect.resource.id": [f"prefect.deployment.{each}" for each in deployments],
    }


def _notice(target: UUID | None, what: str) -> list[ActionTypes]:
    if target is None:
        return []
    subject = f"tuneline: {{{{ flow_run.name }}}} {what}"
    body = "State: {{ flow_run.state.name }}. {{ flow_run.state.message }} {{ flow_run|ui_url }}"
    return [SendNotification(block_document_id=target, subject=subject, body=body)]


def _kinds(automation: AutomationCore) -> set[type]:
    return {type(action) for action in automation.actions}


def _plain(automation: AutomationCore, key: str) -> Any:
    return automation.model_dump(include={key})[key]
