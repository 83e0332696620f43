"""An earlier champion becomes the champion again."""

from __future__ import annotations

from prefect import task

from tasks.promotion.ask import Ask
from tasks.promotion.promote import Promotion
from tasks.promotion.promote import roll_back as bring_back


@task(name="roll back", task_run_name="roll back {ask.model}", persist_result=False)
def roll_back(ask: Ask) -> Promotion:
    """Verify the version's files and move the aliases, or leave them where they stood."""
    return bring_back(ask)
