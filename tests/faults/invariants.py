"""What must hold in a folder in which the toy experiment ran, whatever was done to it (I1 to I8 of the fault table)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.tracking import MlflowClient

from tasks.artifacts import MANIFEST, verify
from tasks.training.recording import STEP_SECONDS, read_metrics
from tests.flows.worlds import cells_of, client, parents_of, processes_in, runs_of, weights_of
from tests.launch.worlds import wait_until

CANARY = "canary-5f1d0b7e"
SECRETS = {"HF_TOKEN": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY, "MLFLOW_TRACKING_PASSWORD": CANARY}
"""What a pipeline's environment may hold, and nothing that it writes."""

SERIES = ("train/loss", "train/grad_norm", "train/learning_rate", "train/eval_loss")


class Outcome(NamedTuple):
    """Everything that a repetition must reproduce to the last bit."""

    weights: dict[str, str]
    series: list[tuple[int, dict[str, float]]]
    scores: list[dict[str, Any]]
    predictions: list[bytes]
    recorded: dict[str, list[tuple[int, float]]]
    package: str


def check_standing(folder: Path) -> None:
    """After any end, good or bad: I1 nobody is left, I2 and I6 what looks valid is valid, I7 nothing was told."""
    wait_until(lambda: processes_in(folder) == [])
    for manifest in sorted((folder / "runs").rglob(MANIFEST)):
        if not any(part.startswith(".") for part in manifest.relative_to(folder).parts):
            verify(manifest.parent)
    unsealed = [path.name for path in artifacts_in(folder) if not (path / MANIFEST).exists()]
    assert unsealed == [], "a folder under a final name has no manifest"
    assert telling(folder) == []


def check_end(folder: Path, undisturbed: Path) -> None:
    """After a command that ended well: I3 each step once, I4 the alias, I5 all runs closed, I8 as if undisturbed."""
    check_standing(folder)
    runs = runs_of(client(folder))
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED", "KILLED"}, "a run was left open"
    assert parents_of(runs)[-1].info.status == "FINISHED"
    assert hidden_in(folder) == [], "half an artifact was left"
    found, expected = outcome_of(folder), outcome_of(undisturbed)
    for steps in (dict(found.series), dict(found.recorded["train/loss"])):
        assert list(steps) == list(range(1, len(steps) + 1)), "a step is missing, doubled or out of order"
    assert found == expected
    versions = client(folder).search_model_versions("name = 'toy'")
    assert len(versions) == 1, "one winner is one version"


def artifacts_in(folder: Path) -> list[Path]:
    """Every folder under a final name."""
    return [
        path
        for path in sorted((folder / "runs" / "artifacts").glob("*/*"))
        if path.is_dir() and not path.name.startswith(".")
    ]


def hidden_in(folder: Path) -> list[str]:
    """Unfinished work beside the artifacts; locks are none."""
    return [path.name for path in (folder / "runs" / "artifacts").glob("*/.*") if path.suffix != ".lock"]


def telling(folder: Path) -> list[str]:
    """Files that hold the canary."""
    needle = CANARY.encode()
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path.relative_to(folder)) for path in files if needle in path.read_bytes()]


def outcome_of(folder: Path) -> Outcome:
    """What the toy experiment with one trained cell has left."""
    artifacts = folder / "runs" / "artifacts"
    evaluated = sorted(artifacts.glob("evaluate/*"))
    (metrics,) = artifacts.glob("train/*/metrics.jsonl")
    mlflow = client(folder)
    version = mlflow.get_model_version_by_alias("toy", "challenger")
    return Outcome(
        weights=weights_of(folder),
        series=[
            (line.step, {name: value for name, value in line.values.items() if name != STEP_SECONDS})
            for line in read_metrics(metrics)
        ],
        scores=[json.loads((path / "scores.json").read_text()) for path in evaluated if path.is_dir()],
        predictions=[(path / "predictions.jsonl").read_bytes() for path in evaluated if path.is_dir()],
        recorded=recorded_in(mlflow),
        package=version.tags["tuneline.package_sha256"],
    )


def recorded_in(mlflow: MlflowClient) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of the training's series in MLflow, of the run that trained the cell to its end."""
    runs = runs_of(mlflow)
    run = cells_of(runs, parents_of(runs)[-1])["lora"]
    trained = run.data.tags.get("tuneline.made_by.train", run.info.run_id)
    return {name: [(point.step, point.value) for point in mlflow.get_metric_history(trained, name)] for name in SERIES}
