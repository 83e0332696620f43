"""What a flow hands back, and how the futures of a cell become its outcome."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from prefect.client.schemas import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from tasks.comparison.render import verdict
from tasks.comparison.values import Comparison
from tasks.foundation.errors import ErrorRecord, TunelineError, shortage
from tasks.foundation.values import Value
from tasks.plan import PlannedCell
from tasks.records import CellOutcome
from tasks.registry.values import RegisteredVersion
from tasks.workspace import close_left

P = ParamSpec("P")
T = TypeVar("T")


class FlowOutcome(Value):
    """The end of a comparison."""

    name: str
    comparison: Comparison
    outcomes: tuple[CellOutcome, ...]
    version: RegisteredVersion | None = None
    registration_error: ErrorRecord | None = None
    unsent_events: int = 0
    """Events that MLflow could not take yet; they are sent at the next start."""

    @property
    def exit_code(self) -> int:
        """0, or that of the first failure: of a cell, or of the registration."""
        return self.failures[0][1].exit_code if self.failures else 0

    @property
    def failures(self) -> list[tuple[str, ErrorRecord]]:
        """What failed, by label, with its reason."""
        cells = [(outcome.cell.label, outcome.error) for outcome in self.outcomes if outcome.error]
        return cells + ([("registration", self.registration_error)] if self.registration_error else [])


def ended(outcome: FlowOutcome) -> State[FlowOutcome]:
    """The state in which the flow run stands in Prefect's page."""
    if not outcome.failures:
        registered = f" It is {outcome.version.name} version {outcome.version.version}." if outcome.version else ""
        return Completed(message=verdict(outcome.comparison) + registered, data=outcome)
    return Failed(message="; ".join(f"{label}: {error.error()}" for label, error in outcome.failures), data=outcome)


def failing_plainly(function: Callable[P, State[T]]) -> Callable[P, State[T]]:
    """A flow whose state says in one line what a person can do something about; anything else is raised on.

    Prefect would put the exception's class in front of the line, and a traceback into the log for a typing error.
    """

    @functools.wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> State[T]:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            known = error if isinstance(error, TunelineError) else shortage(error)
            if known is None:
                raise
            return Failed(message=str(known), data=known)

    return plain


def outcome_in(state: State[T], kind: type[T]) -> T:
    """What a finished flow run has to say, also where something in it failed.

    Raises:
        Exception: whatever ended the flow before it had an outcome.
    """
    outcome = state.result(raise_on_failure=False)
    return outcome if isinstance(outcome, kind) else state.result()


def value_of(step: PrefectFuture[T] | None) -> T | None:
    """What a finished step made; None where it failed or did not run."""
    return step.result(raise_on_failure=False) if step and step.state.is_completed() else None


def error_of(step: PrefectFuture[T] | None) -> ErrorRecord | None:
    """Why a finished step failed; None where it did not."""
    failed = step is not None and (step.state.is_failed() or step.state.is_crashed())
    return ErrorRecord.of(step.result(raise_on_failure=False)) if step and failed else None


def outcome_of(planned: PlannedCell, steps: Sequence[PrefectFuture], run_id: str) -> CellOutcome:
    """Wait for train, merge and evaluate of a cell; the first failure is its error.

    The run is closed here when Prefect broke off a step before the step could do so itself.
    """
    for step in steps:
        step.wait()
    error = next((error for step in steps if (error := error_of(step))), None)
    if error:
        close_left([planned.place], error.error())
    trained, merged, evaluated = map(value_of, steps)
    return CellOutcome(
        cell=planned.cell,
        run=planned.place.run,
        run_id=run_id,
        trained=trained,
        merged=merged,
        evaluated=evaluated,
        error=error,
    )
