"""All findings in the order in which a reader wants them: what runs, where it runs, whom it talks to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tasks.health.check import Check
from tasks.health.machine import accelerator_check, cores_check, disk_check, memory_check, writable_check
from tasks.health.servers import prefect_check, stray_store_check, tracking_check
from tasks.health.versions import kernels_check, library_checks, platform_checks, python_check

_DEFAULT_STORE = "sqlite:///mlflow.db"


def checks(environment: Mapping[str, str] = os.environ) -> list[Check]:
    """Look at everything once; takes a few seconds at most, also when servers do not answer.

    Args:
        environment: TUNELINE_RUNS, MLFLOW_TRACKING_URI and PREFECT_API_URL are read.
    """
    runs = Path(environment.get("TUNELINE_RUNS") or "runs")
    return [
        python_check(),
        *library_checks(),
        kernels_check(),
        *platform_checks(),
        accelerator_check(),
        cores_check(),
        memory_check(),
        disk_check(runs),
        writable_check(runs),
        tracking_check(environment.get("MLFLOW_TRACKING_URI") or _DEFAULT_STORE),
        stray_store_check(Path.cwd()),
        prefect_check(environment.get("PREFECT_API_URL")),
    ]
