"""What a flow hands back, and how the futures of a cell become its outcome."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.futures import PrefectFuture

from tasks.comparison.values import Comparison
from tasks.foundation.errors import ErrorRecord
from tasks.foundation.values import Value
from tasks.plan import PlannedCell
from tasks.records import CellOutcome
from tasks.registry.values import RegisteredVersion
from tasks.workspace import close_left


class FlowOutcome(Value):
    """The end of a comparison."""

    name: str
    comparison: Comparison
    outcomes: tuple[CellOutcome, ...]
    version: RegisteredVersion | None = None
    unsent_events: int = 0
    """Events that MLflow could not take yet; they are sent at the next start."""

    @property
    def exit_code(self) -> int:
        """0, or that of the first cell that failed."""
        return next((outcome.error.exit_code for outcome in self.outcomes if outcome.error), 0)


def outcome_of(planned: PlannedCell, steps: Sequence[PrefectFuture], run_id: str) -> CellOutcome:
    """Wait for train, merge and evaluate of a cell; the first failure is its error.

    The run is closed here when Prefect broke off a step before the step could do so itself.
    """
    for step in steps:
        step.wait()
    results = [step.result(raise_on_failure=False) if step.state.is_completed() else None for step in steps]
    failed = next((step for step in steps if step.state.is_failed() or step.state.is_crashed()), None)
    error = ErrorRecord.of(failed.result(raise_on_failure=False)) if failed else None
    if error:
        close_left([planned.place], error.error())
    trained, merged, evaluated = results
    return CellOutcome(
        cell=planned.cell,
        run=planned.place.run,
        run_id=run_id,
        trained=trained,
        merged=merged,
        evaluated=evaluated,
        error=error,
    )
