"""What crosses the tracking seam. Steps write to a run's journal; only the shipper talks to MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.foundation.values import Value

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class RunRef(Value):
    """Points to a run's journal: small enough to be an argument of a Prefect task."""

    journal: Path
    """The append-only file of the run's events. Any process on this machine may append to it."""
    name: str

    @property
    def key(self) -> str:
        """The journal's key: the tag `tuneline.journal` of the MLflow run."""
        return self.journal.stem


class MetricPoint(Value):
    """One value of one metric. Name, value, step and time together are its identity: sent twice, it is stored once."""

    name: str
    value: float
    """NaN and infinities are allowed, and kept."""
    step: int = 0
    timestamp_ms: int
    """Milliseconds since 1970, taken where the value was measured, never where it is sent."""
