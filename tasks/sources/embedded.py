"""The embedded model as a folder: made once and kept."""

from __future__ import annotations

from pathlib import Path

from tasks.artifacts import ArtifactStore
from tasks.embedded import embedded_key
from tasks.embedded.child import build_base_in_child
from tasks.launch.child import OnProgress
from tasks.launch.children import run_in_child_reporting


def embedded_folder(store: ArtifactStore, on_progress: OnProgress, made_by: str) -> Path:
    """Where it lies; a child process trains it where nobody has yet.

    Args:
        on_progress: is told of its steps.
        made_by: journal's key of the run that makes it.
    """
    artifact = store.make(
        "base",
        embedded_key(),
        lambda folder: run_in_child_reporting(build_base_in_child, on_progress, folder),
        made_by=made_by,
    )
    return artifact.path
