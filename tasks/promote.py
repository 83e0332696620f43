"""Step 2 of a promotion: the champion moves."""

from __future__ import annotations

from prefect import task

from tasks.promotion.ask import Ask
from tasks.promotion.promote import Judged, Promotion
from tasks.promotion.promote import promote as bring_into_force


@task(name="promote", task_run_name="promote {ask.model} version {judged.version}", persist_result=False)
def promote(ask: Ask, judged: Judged, approver: str) -> Promotion:
    """Move the aliases, or leave them where they stood."""
    return bring_into_force(ask, judged, approver)
