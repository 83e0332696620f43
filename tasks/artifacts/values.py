"""What a step hands to the next one: where its folder lies and what is in it."""

from __future__ import annotations

from pathlib import Path

from tasks.foundation.values import Value


class Artifact(Value):
    """A committed, verified folder."""

    step: str
    """`prepare`, `tokenize`, `train`, …: the first part of its path."""
    key: str
    """sha256 of everything that decides the content; the folder's name."""
    path: Path
    digest: str
    """sha256 over the paths, sizes and sha256 of all files: what downstream keys are made of."""
    cached: bool = False
    """True when it had been made before and only its digests were verified now."""
    made_by: str = ""
    """The MLflow run that made it, when a tracker was there; empty otherwise."""
