"""From a registered version to the champion: gate, approval, switch; and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import flow
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Completed

from configs.gate import ask_for, nominated
from flows.announce import PROMOTED, ROLLED_BACK, announce
from flows.approval import approved_by
from flows.guarding import end_with_worker
from flows.outcome import failing_plainly
from flows.reconcile import NOTED, note_flow_run
from tasks.judge import judge
from tasks.launch.children import children
from tasks.promote import promote as bring_into_force
from tasks.promotion.ask import Ask
from tasks.promotion.examine import check_passed
from tasks.promotion.promote import SCRATCH, Promotion, pending_approval
from tasks.roll_back import roll_back


@flow(name="promote", flow_run_name="promote {model}", persist_result=False, **NOTED)
@failing_plainly
def promote(model: str, reason: str, version: int = 0, alias: str = "challenger", gate: str = "") -> State[Promotion]:
    """Make a registered version the champion: when it passes its gate and, where the gate wants that, a person agrees.

    Args:
        model: The registered model.
        reason: Why; it stays in the promotion log.
        version: The version to promote; 0 for the one at the alias.
        alias: The alias whose version is to be promoted.
        gate: A file with another gate than the version's own, relative to the worker's directory.
    """
    end_with_worker()
    note_flow_run()
    ask = nominated(_asked(model, reason), version, alias, gate)
    with _one_child(ask):
        requested, judged = pending_approval(ask) or (None, judge(ask))
        check_passed(judged.evidence)
        approver = approved_by(ask, judged, requested) if judged.needs_approval else ""
        promoted = bring_into_force(ask, judged, approver)
    if promoted.entry:
        facts = {"version": promoted.version, "replaced": promoted.replaced, "reason": ask.reason}
        announce(PROMOTED, ask.model, facts | {"evidence": judged.evidence.digest, "approved_by": approver})
    return Completed(message=str(promoted), data=promoted)


@flow(name="rollback", flow_run_name="roll back {model}", persist_result=False, **NOTED)
@failing_plainly
def rollback(model: str, reason: str, version: int = 0) -> State[Promotion]:
    """Make an earlier champion the champion again.

    Args:
        model: The registered model.
        reason: Why; it stays in the promotion log.
        version: An earlier champion; 0 for the one before the present one.
    """
    end_with_worker()
    note_flow_run()
    ask = nominated(_asked(model, reason), version)
    rolled = roll_back(ask)
    announce(ROLLED_BACK, ask.model, {"version": rolled.version, "replaced": rolled.replaced, "reason": ask.reason})
    return Completed(message=str(rolled), data=rolled)


def _asked(model: str, reason: str) -> Ask:
    return ask_for(model, reason, os.environ).model_copy(update={"flow_run": str(flow_run.id or "")})


@contextmanager
def _one_child(ask: Ask) -> Iterator[None]:
    """Versions are loaded in a process of its own: the flow's stays light, and the peak of memory is the version's."""
    with children(1, ask.runs / SCRATCH / "children.log"):
        yield
