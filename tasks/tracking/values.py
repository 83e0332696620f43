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
