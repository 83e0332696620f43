"""Which run made what this run only adopted."""

from __future__ import annotations

from tasks.artifacts import Artifact
from tasks.tracking import RunRef
from tasks.tracking.cursor import read_cursor


def origin_tags(artifact: Artifact | None, ref: RunRef) -> dict[str, str]:
    """`tuneline.made_by.<step>` of a cached artifact: the MLflow run that made it.

    Before that run is known to MLflow the tag holds its journal's key, which is there the run's tag `tuneline.journal`.
    """
    if artifact is None or not artifact.cached or artifact.made_by in ("", ref.key):
        return {}
    cursor = read_cursor(ref.journal.with_name(f"{artifact.made_by}.jsonl"))
    return {f"tuneline.made_by.{artifact.step}": (cursor.run_id if cursor else "") or artifact.made_by}
