"""Registration as a child process runs it: the parent names this function without importing torch."""

from __future__ import annotations

from pathlib import Path

from tasks.registry.values import RegisteredVersion, RegisterRequest
from tasks.tracking import TrackingSettings


def register_in_child(request: RegisterRequest, tracking: TrackingSettings, artifact_root: Path) -> RegisteredVersion:
    """See `tasks.registry.register.register`."""
    from tasks.registry.register import register

    return register(request, tracking, artifact_root)
