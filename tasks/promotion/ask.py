"""What somebody asks for. Light: the command line and Prefect's form check it before anything is imported."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tasks.foundation.values import Value
from tasks.registry.settings import GateSettings
from tasks.tracking.settings import TrackingSettings

REASON_CHARACTERS = 1000


class GateFile(Value):
    """A gate that was written to a file, for versions whose own record asks for another."""

    path: str
    settings: GateSettings


class Ask(Value):
    """A promotion, or a rollback."""

    model: str
    version: int = Field(default=0, ge=0)
    """0: the one at `alias`; of a rollback the champion before."""
    alias: str = "challenger"
    reason: str = Field(min_length=1, max_length=REASON_CHARACTERS)
    gate: GateFile | None = None
    """Instead of the one in the version's record."""
    flow_run: str = ""
    """Prefect's id of the flow run that does it."""
    runs: Path
    tracking: TrackingSettings
