"""What MLflow has of a pipeline's last attempt."""

from __future__ import annotations

from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

METHOD = "lora"
_EXPERIMENT = "bench"


def tracked_in(folder: Path) -> tuple[tuple[tuple[int, float], ...], dict[str, float]]:
    """(step, loss) in order, and the scores. An attempt that adopted what an earlier one trained points to its run."""
    client = _client(folder)
    runs = _runs(client)
    cells = [run for run in runs if run.data.tags.get("tuneline.label") == METHOD]
    last = max(cells, key=lambda run: run.info.start_time)
    maker = last.data.tags.get("tuneline.made_by.train", last.info.run_id)
    (trained,) = [run for run in cells if maker in (run.info.run_id, run.data.tags.get("tuneline.journal"))]
    series = client.get_metric_history(trained.info.run_id, "train/loss")
    points = sorted((point.step, point.value) for point in series)
    scores = {name: value for name, value in last.data.metrics.items() if name.startswith("eval/")}
    return tuple(points), scores


def running_in(folder: Path) -> int:
    """Runs that MLflow believes to be running."""
    return sum(run.info.status == "RUNNING" for run in _runs(_client(folder)))


def _client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def _runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], max_results=1000)) if experiment else []
