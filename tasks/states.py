"""The state in which a step ends, as Prefect's page shows it."""

from __future__ import annotations

from typing import TypeVar

from prefect.client.schemas import State
from prefect.states import Completed

T = TypeVar("T")


def finished(value: T, *, cached: bool) -> T | State[T]:
    """The value as it is, or in a state named `Cached` when an earlier run had made it and it was verified."""
    return Completed(name="Cached", message="verified; made by an earlier run", data=value) if cached else value
