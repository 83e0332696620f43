"""Which run made what this run only adopted."""

from __future__ import annotations

from tasks.artifacts import Artifact
from tasks.tracking import RunRef
from tasks.tracking.cursor import run_id_of


def maker_of(artifact: Artifact, ref: RunRef) -> str:
    """The MLflow run that made a cached artifact; empty where this run made it itself, or nobody said.

    Before MLflow knows that run it is its journal's key, which will be its tag `tuneline.journal`.
    """
    if not artifact.cached or artifact.made_by in ("", ref.key):
        return ""
    maker = RunRef(journal=ref.journal.with_name(f"{artifact.made_by}.jsonl"), name=artifact.step)
    return run_id_of(maker) or artifact.made_by


def origin_tags(artifact: Artifact | None, ref: RunRef) -> dict[str, str]:
    """`tuneline.made_by.<step>`: a cell may have been trained by one earlier run and evaluated by another."""
    maker = maker_of(artifact, ref) if artifact else ""
    return {f"tuneline.made_by.{artifact.step}": maker} if artifact and maker else {}
