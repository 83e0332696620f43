"""Folders, by name."""

from __future__ import annotations

from pathlib import Path

from tasks.artifacts import ArtifactStore
from tasks.foundation.values import Value
from tasks.launch.gangs import current_gangs
from tasks.tracking.values import RunRef


class Workspace(Value):
    """The `runs` folder: moved by the environment variable TUNELINE_RUNS."""

    runs: Path

    @property
    def store(self) -> ArtifactStore:
        """Committed outputs of steps, by content key. Waiting for another's output ends when the flow is cancelled."""
        return ArtifactStore(self.runs / "artifacts", while_waiting=current_gangs().check)

    @property
    def work(self) -> Path:
        """Checkpoints and logs of cells that are not finished, by fingerprint."""
        return self.runs / "work"

    @property
    def spool(self) -> Path:
        """Journals of runs on their way to MLflow."""
        return self.runs / "spool"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's artifact root, where the tracking store is a local database."""
        return self.runs / "mlflow"

    @property
    def prefect(self) -> Path:
        """Home of the Prefect server that is started when PREFECT_API_URL names none."""
        return self.runs / "prefect"

    @property
    def flow_runs(self) -> Path:
        """Prefect's flow runs that are not known to have ended there."""
        return self.runs / "flow-runs"

    def report(self, name: str) -> Path:
        """Folder of one experiment's comparison, progress and log."""
        return self.runs / "reports" / name

    def board(self, name: str) -> Path:
        """Folder of the board of one experiment's run."""
        return self.report(name) / "progress"


class Place(Value):
    """Where one cell, or the steps that all cells share, reports to: an argument of every task."""

    workspace: Workspace
    board: Path
    label: str
    position: int
    """Place in the list of cells; the shared steps come first."""
    run: RunRef
