"""Where runs are recorded."""

from __future__ import annotations

from pydantic import Field

from tasks.foundation.values import Settings


class TrackingSettings(Settings):
    """Section `tracking`."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow's tracking URI. The environment variable MLFLOW_TRACKING_URI wins when the experiment sets none."""
    experiment: str | None = None
    """MLflow experiment; when absent, the name of the experiment file."""
    ui_url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    """Where people open MLflow's pages, for links; when absent `uri`, where that is a server."""
    flush_seconds: float = Field(default=10.0, gt=0)
    """How long the end of a run waits for a server that does not answer; what is left is sent at the next start."""
