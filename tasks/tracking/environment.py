"""Defaults for MLflow's client, where the user has set none. They apply to this process and what it starts."""

from __future__ import annotations

import os

MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the shipper retries, and checks first what has arrived
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; MLflow's 120 would hold back everything behind one lost answer
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output belongs to the command line
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a training job calls nobody
}


def set_mlflow_defaults() -> None:
    """Set what is not set; call it before MLflow is imported for the first time."""
    for name, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
