"""What a person sees of a run in Prefect's page, as its server hands it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.worlds import cells_of, client, parents_of, runs_of

pytestmark = pytest.mark.timeout(1500)
Finished = tuple[Path, str]
Found = list[dict[str, Any]]


def ask(prefect_server: str, what: str, **filters: Any) -> Found:
    answer = httpx.post(f"{prefect_server}/{what}/filter", json=filters, timeout=60)
    answer.raise_for_status()
    found: Found = answer.json()
    return found


def of_the_run(prefect_server: str, mlflow_url: str, what: str) -> Found:
    """Of the flow run of `finished`, which alone was told where MLflow's pages are."""
    runs = ask(prefect_server, "flow_runs", flow_runs={"name": {"any_": ["compare toy.yaml"]}})
    (run,) = [run["id"] for run in runs if run["parameters"]["overrides"] == {"tracking.ui_url": mlflow_url}]
    return ask(prefect_server, what, flow_runs={"id": {"any_": [run]}})


def comparison_in(prefect_server: str, mlflow_url: str) -> dict[str, Any]:
    """The comparison among the artifacts."""
    found = of_the_run(prefect_server, mlflow_url, "artifacts")
    return next(artifact for artifact in found if artifact["key"] == "comparison-toy")


def test_the_name_of_each_task_run_says_what_runs(finished: Finished, prefect_server: str, mlflow_url: str) -> None:
    names = {run["name"] for run in of_the_run(prefect_server, mlflow_url, "task_runs")}
    steps = {f"{step} {cell} (seed 0)" for step in ("train", "merge", "evaluate") for cell in ("full", "lora")}
    assert steps < names
    assert {"find base model", "prepare data", "plan cells", "evaluate none", "compare toy"} < names
    assert any(name.startswith("register ") and name.endswith(" as toy") for name in names)


def test_each_cell_has_a_bar_that_ends_full_and_says_its_loss(
    finished: Finished, prefect_server: str, mlflow_url: str
) -> None:
    found = {a["key"]: a for a in of_the_run(prefect_server, mlflow_url, "artifacts") if a["type"] == "progress"}
    assert set(found) == {f"progress-toy-{cell}" for cell in ("none", "full", "lora", "prompt-tuning")}
    assert {artifact["data"] for artifact in found.values()} == {100}
    assert "**100 %** lora: done train loss " in found["progress-toy-lora"]["description"]


def test_links_lead_to_mlflows_runs_and_to_the_version(
    finished: Finished, prefect_server: str, mlflow_url: str
) -> None:
    folder, _ = finished
    runs = runs_of(client(folder))
    parent = parents_of(runs)[0]
    experiment = f"{mlflow_url}/#/experiments/{parent.info.experiment_id}/runs"
    found = {a["key"]: str(a["data"]) for a in of_the_run(prefect_server, mlflow_url, "artifacts")}
    for label, run in cells_of(runs, parent).items():
        assert f"[{label}]({experiment}/{run.info.run_id})" in found["comparison-toy"]
    assert f"[All runs in MLflow]({experiment})" in found["comparison-toy"]
    assert found["mlflow-toy"] == f"[toy in MLflow]({experiment}/{parent.info.run_id})"
    assert found["registered-toy"] == f"[toy version 1]({mlflow_url}/#/models/toy/versions/1), @challenger"


def test_what_a_rank_prints_is_in_the_log_of_its_task(finished: Finished, prefect_server: str, mlflow_url: str) -> None:
    """And not a second time in our own log: it has a file of its own."""
    folder, _ = finished
    tasks = of_the_run(prefect_server, mlflow_url, "task_runs")
    (lora,) = [task["id"] for task in tasks if task["name"] == "train lora (seed 0)"]
    said = [line["message"] for line in ask(prefect_server, "logs", logs={"task_run_id": {"any_": [lora]}})]
    assert sum(line.startswith("{'loss': ") for line in said) == 6
    assert any(line.startswith("{'eval_loss': ") for line in said)
    assert "{'loss': " not in (folder / "runs/reports/toy/log.txt").read_text(encoding="utf-8")
