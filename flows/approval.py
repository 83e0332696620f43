"""A person is asked in Prefect's page while no process waits: the flow run is suspended, and goes on when answered."""

from __future__ import annotations

from typing import Literal

from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from pydantic import Field

from tasks.foundation.errors import ConfigError
from tasks.promotion.ask import Ask
from tasks.promotion.entries import Entry
from tasks.promotion.evidence import to_list
from tasks.promotion.promote import Judged, answer_request, request_approval

_KEY = "approval"
"""The same at every start of the flow run, so that the second one gets the answer instead of asking again."""


class Approval(RunInput):  # type: ignore[misc]
    """The form."""

    decision: Literal["reject", "approve"] = Field(default="reject", description="What is to happen to the version.")
    name: str = Field(min_length=1, max_length=100, description="Your name: it stays in the promotion log.")
    reason: str = Field(min_length=1, max_length=1000, description="Why: it stays in the promotion log.")


def approved_by(ask: Ask, judged: Judged, requested: Entry | None) -> str:
    """Ask once, and return who approved.

    Args:
        requested: the entry by which this flow run has asked already, when it goes on.

    At the first start the flow run is suspended here, and its process ends. Prefect starts it again when the form was
    sent; without an answer within the gate's `approval_hours` Prefect's server ends it as failed.

    Raises:
        ConfigError: this flow run has no deployment, so that nobody could start it again.
        GateError: it was rejected, or answered too late.
    """
    if not deployment.id:
        raise ConfigError(
            f"{ask.model} version {judged.version} wants a person's approval, which is given in Prefect's page",
            where="registry.gate.approval",
            fix="Promote it through the deployment `promote` (tuneline setup-orchestration makes it), with a worker",
        )
    requested = requested or request_approval(ask, judged)
    form = Approval.with_initial_data(description=to_list(judged.evidence))
    seconds = int(judged.evidence.settings.approval_hours * 3600)
    answer = suspend_flow_run(wait_for_input=form, timeout=seconds, key=_KEY)
    approve = answer.decision == "approve"
    return answer_request(ask, requested, answer.name.strip(), answer.reason.strip(), approve=approve)
