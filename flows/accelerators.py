"""Prefect's global limit on accelerators: a cell of a run that names it works only while it holds its places there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from flows.reconcile import prefect_client
from tasks.foundation.errors import DependencyError, ResourceError
from tasks.launch.slots import Permit, Say, free_for_all

log = logging.getLogger(__name__)

LIMIT_VARIABLE: Final = "TUNELINE_ACCELERATOR_LIMIT"
_LOOK_SECONDS = 2.0
_LOCKED = 423
"""What the server answers while all places are taken."""


def accelerator_permit(environment: Mapping[str, str], ranks: int) -> Permit:
    """Leave to work from the limit that the environment names; without one nobody counts.

    Args:
        ranks: how many work in each cell on this machine.

    Raises:
        ResourceError: the limit does not exist, or is smaller than one cell.
    """
    name = environment.get(LIMIT_VARIABLE)
    if not name or not ranks:
        return free_for_all
    with prefect_client() as client:
        limit = _limit(client, name)
    if limit.active and limit.limit < ranks:
        raise ResourceError(
            f"a cell has {ranks} ranks here, and the limit {name} has {limit.limit} places",
            where="distributed.ranks_per_node",
            fix="Lower it, or raise the limit with `tuneline setup-orchestration --slots`",
        )

    def permit(ranks: int, check: Callable[[], None], say: Say) -> AbstractContextManager[None]:
        return _places(name, ranks, check, say)

    return permit


@contextmanager
def _places(name: str, ranks: int, check: Callable[[], None], say: Say) -> Iterator[None]:
    """Hold places of the limit.

    A lease that cannot be renewed does not end a training of days. The locks of the devices then still hold.
    """
    place = _taken(name, ranks, check, say)
    try:
        yield
    finally:
        try:
            place.__exit__(None, None, None)
        except httpx.HTTPError as error:
            log.warning("a place of %s could not be given back, its lease ends by itself: %s", name, error)


def _taken(name: str, ranks: int, check: Callable[[], None], say: Say) -> AbstractContextManager[None]:
    """Look until there is room, then take it: whoever waits inside Prefect cannot be called off."""
    with prefect_client() as client:
        while True:
            check()
            limit = _limit(client, name)
            if not limit.active or limit.active_slots + ranks <= limit.limit:
                place: AbstractContextManager[None] = concurrency(
                    name, occupy=ranks, max_retries=0, strict=True, raise_on_lease_renewal_failure=False
                )
                try:
                    place.__enter__()
                except ConcurrencySlotAcquisitionError as error:
                    _refuse_unless_taken(name, error)
                else:
                    return place
            say(f"all places of {name} are taken")
            time.sleep(_LOOK_SECONDS)


def _limit(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse:
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        raise _missing(name) from None


def _refuse_unless_taken(name: str, error: ConcurrencySlotAcquisitionError) -> None:
    cause = error.__cause__
    if cause is None:
        raise _missing(name) from error
    if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == _LOCKED:
        return
    what = f"Prefect's server gives no place of {name}: {type(cause).__name__}"
    raise DependencyError(what, where="PREFECT_API_URL", fix="Run it again when the server answers") from error


def _missing(name: str) -> ResourceError:
    return ResourceError(
        f"Prefect's server has no limit {name}, so nobody would count the accelerators",
        where=LIMIT_VARIABLE,
        fix="Make it with `tuneline setup-orchestration`, or unset the variable",
    )
