"""How a flow ended is ours to say: it stands even where Prefect's server is gone and cannot be told."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import httpx
from prefect.exceptions import TerminationSignal

from flows.guarding import Terminated, give_up
from flows.outcome import outcome_in
from tasks.foundation.errors import DependencyError
from tasks.tracking import redact

if TYPE_CHECKING:
    from prefect import Flow, State

T = TypeVar("T")

log = logging.getLogger(__name__)

_THREAD_SECONDS = 10.0
"""How long Prefect's threads may take to end once the flow is cancelled: by then every rank of it is gone."""


class Ending(NamedTuple, Generic[T]):
    """The outcome of a flow."""

    outcome: T
    recorded: bool
    """Prefect's server knows of the end."""


def run_to_its_end(flow: Flow, parameters: Mapping[str, Any], kind: type[T]) -> Ending[T]:
    """Run the flow; what its function returned or raised counts, whether or not Prefect could write down its state.

    Args:
        kind: of the outcome.

    Raises:
        TunelineError: as the flow raised it; so are Ctrl-C and SIGTERM.
        DependencyError: Prefect's server was gone before the flow began.
    """
    returned: list[T] = []
    raised: list[BaseException] = []
    patience: list[threading.Timer] = []

    @functools.wraps(flow.fn)
    def kept(*given: Any, **named: Any) -> State[T]:
        try:
            state = flow.fn(*given, **named)
        except BaseException as error:
            raised.append(error)
            if not isinstance(error, Exception):
                patience.append(_patience(_as_ours(error)))
            raise
        if isinstance(state.data, Exception):
            raised.append(state.data)
        else:
            returned.append(state.data)
        return state

    watched = flow.with_options()
    watched.fn = kept
    try:
        state = watched(**parameters, return_state=True)
    except Exception as error:
        if raised:
            raise _as_ours(raised[0]) from None
        if not returned:
            raise _without_server(error) from error
        log.warning("Prefect does not know that the flow ended", exc_info=error)
        return Ending(outcome=returned[0], recorded=False)
    finally:
        for timer in patience:
            timer.cancel()
    return Ending(outcome=outcome_in(state, kind), recorded=True)


def _patience(error: BaseException) -> threading.Timer:
    """Prefect waits for its threads without end, and one of them may hang (in a file system, in a library)."""
    timer = threading.Timer(_THREAD_SECONDS, give_up, [error])
    timer.daemon = True
    timer.start()
    return timer


def _as_ours(error: BaseException) -> BaseException:
    return Terminated() if isinstance(error, TerminationSignal) else error


def _without_server(error: Exception) -> Exception:
    """What a request of Prefect's own raises says nothing about servers to whoever reads it."""
    request = error if isinstance(error, httpx.HTTPError) else error.__cause__
    if not isinstance(request, httpx.HTTPError):
        return error
    what = f"Prefect's server does not answer ({type(request).__name__}: {redact(str(request))})"
    return DependencyError(what, where="PREFECT_API_URL", fix="Start it and run this again; nothing is lost")
