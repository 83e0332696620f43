"""The whole product as a user starts it, on a tiny model, with a real Prefect server and a real MLflow store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.worlds import (
    METHODS,
    cells_of,
    client,
    parents_of,
    runs_of,
    tuneline,
    weights_of,
    write_experiment,
)

pytestmark = pytest.mark.timeout(1500)
Finished = tuple[Path, str]


def test_the_table_and_what_was_registered_are_printed(finished: Finished) -> None:
    _, output = finished
    for label in ("none", "full", "lora", "prompt_tuning", "exact_match", "Registered toy version 1 as @challenger"):
        assert label in output


def test_mlflow_holds_a_parent_and_a_flat_row_per_cell(finished: Finished) -> None:
    folder, _ = finished
    runs = runs_of(client(folder))
    parent = parents_of(runs)[0]
    cells = cells_of(runs, parent)
    assert list(cells) == ["none", "full", "lora", "prompt_tuning"]
    assert {run.info.status for run in [parent, *cells.values()]} == {"FINISHED"}
    lora = cells["lora"].data
    assert (lora.params["method.kind"], lora.params["method.r"], lora.params["training.learning_rate"]) == (
        "lora",
        "4",
        "0.01",
    )
    for name in (
        "data/train_rows",
        "tokenize/train_tokens",
        "train/loss",
        "merge/largest_difference",
        "eval/heldout/loss",
        "eval/heldout/exact_match",
        "perf/tokens_per_second",
        "perf/evaluation_seconds",
        "peft/trainable_parameters",
    ):
        assert name in lora.metrics, name
    assert len(lora.tags["tuneline.cell"]) == 64
    assert (lora.tags["tuneline.method"], lora.tags["tuneline.seed"]) == ("lora", "0")
    assert "/flow-run/" in lora.tags["tuneline.prefect"]


def test_each_step_of_training_stands_once_in_mlflow(finished: Finished) -> None:
    folder, _ = finished
    mlflow = client(folder)
    runs = runs_of(mlflow)
    lora = cells_of(runs, parents_of(runs)[0])["lora"]
    history = mlflow.get_metric_history(lora.info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]


def test_configuration_environment_code_and_data_are_recorded_with_the_cell(finished: Finished) -> None:
    folder, _ = finished
    mlflow = client(folder)
    runs = runs_of(mlflow)
    lora = cells_of(runs, parents_of(runs)[0])["lora"]

    def names(path: str) -> set[str]:
        return {entry.path for entry in mlflow.list_artifacts(lora.info.run_id, path)}

    assert {"configuration/experiment.json", "configuration/environment.txt", "configuration/code.json"} <= names(
        "configuration"
    )
    assert "data/report.json" in names("data")
    assert "tokens/sample.md" in names("tokens")
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= names("adapter")
    assert "evaluation/predictions.jsonl" in names("evaluation")
    report = json.loads((next((folder / "runs/artifacts/prepare").glob("*/report.json"))).read_text())
    assert lora.data.tags["tuneline.data_digest"] == report["digest"]
    assert lora.inputs.dataset_inputs[0].dataset.name == "train"


def test_the_comparison_is_in_mlflow_and_in_the_report(finished: Finished) -> None:
    folder, _ = finished
    mlflow = client(folder)
    parent = parents_of(runs_of(mlflow))[0]
    stored = {entry.path for entry in mlflow.list_artifacts(parent.info.run_id, "comparison")}
    files = {"comparison.md", "comparison.csv", "comparison.json", "comparison.png"}
    assert {f"comparison/{name}" for name in files} <= stored
    assert files <= {path.name for path in (folder / "runs/reports/toy/comparison").iterdir()}


def test_the_registered_model_answers_as_the_evaluation_saw(finished: Finished, tmp_path: Path) -> None:
    folder, _ = finished
    version = client(folder).get_model_version_by_alias("toy", "challenger")
    kind = version.tags["tuneline.method"]
    predictions = {}
    for path in (folder / "runs/artifacts/evaluate").glob("*/predictions.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        predictions[path.parent.name] = {line["prompt"]: line["prediction"] for line in lines}
    script = (
        "import json, sys, mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri('sqlite:///{folder / 'mlflow.db'}')\n"
        "model = mlflow.pyfunc.load_model('models:/toy@challenger')\n"
        "prompts = json.load(sys.stdin)\n"
        "print(json.dumps(list(model.predict(pd.DataFrame({'prompt': prompts})))))\n"
    )
    prompts = list(next(iter(predictions.values())))
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(prompts), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answers = dict(zip(prompts, json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert kind in {method["kind"] for method in METHODS}
    assert answers in [dict(seen) for seen in predictions.values()]


def test_run_again_everything_is_cached_and_leads_back_to_the_run_that_made_it(finished: Finished) -> None:
    folder, _ = finished
    before = runs_of(client(folder))
    made_by = cells_of(before, parents_of(before)[0])
    trained = weights_of(folder)
    logs = {path: path.stat().st_size for path in (folder / "runs/work").glob("*/log.txt")}
    again = tuneline(folder, "run", "toy.yaml")
    assert again.returncode == 0, again.stderr
    assert "not run again: all cells" in again.stdout
    assert "it was there already" in again.stdout
    assert weights_of(folder) == trained
    assert {path: path.stat().st_size for path in (folder / "runs/work").glob("*/log.txt")} == logs
    runs = runs_of(client(folder))
    cells = cells_of(runs, parents_of(runs)[-1])
    for label, run in cells.items():
        assert run.data.tags["tuneline.cached"] == "true"
        assert run.data.tags["tuneline.cached_from"] == made_by[label].info.run_id
    assert cells["lora"].data.metrics["eval/heldout/loss"] == made_by["lora"].data.metrics["eval/heldout/loss"]
    assert len(client(folder).search_model_versions("name = 'toy'")) == 1


def test_change_one_method_and_only_its_cell_runs(finished: Finished) -> None:
    folder, _ = finished
    before = set((folder / "runs/artifacts/train").glob("*/result.json"))
    changed = tuneline(folder, "run", "toy.yaml", "methods.lora.r=2")
    assert changed.returncode == 0, changed.stderr
    new = set((folder / "runs/artifacts/train").glob("*/result.json")) - before
    assert len(new) == 1
    assert "not run again: full, none, prompt_tuning" in _sorted_cached(changed.stdout)


def _sorted_cached(output: str) -> str:
    line = next(line for line in output.splitlines() if "not run again:" in line)
    head, _, labels = line.partition(": ")
    return f"{head}: {', '.join(sorted(label.strip() for label in labels.split(',')))}"


def test_a_cell_that_fails_is_a_row_with_its_reason_and_the_others_go_on(finished: Finished) -> None:
    folder, _ = finished
    never = {"peft_type": "LOHA", "r": 0, "target_modules": ["q_proj"]}  # PEFT says so when it builds the layers
    broken = {"kind": "peft_config", "name": "broken", "config": never, "learning_rate": 0.01}
    write_experiment(folder, methods=[*METHODS, broken])
    try:
        done = tuneline(folder, "run", "toy.yaml")
    finally:
        write_experiment(folder)
    assert done.returncode == 10
    assert done.stderr.startswith("tuneline: broken failed: ")
    assert "`r` should be a positive integer" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "broken" in done.stdout and "Registered toy" in done.stdout
    runs = runs_of(client(folder))
    cells = cells_of(runs, parents_of(runs)[-1])
    assert cells["broken"].info.status == "FAILED"
    assert cells["lora"].info.status == "FINISHED"


def test_a_target_that_matches_nothing_ends_the_run_before_any_base_is_loaded(finished: Finished) -> None:
    folder, _ = finished
    mistyped = {"kind": "lora", "name": "mistyped", "target_modules": ["no_such_layer"]}
    write_experiment(folder, methods=[*METHODS, {"kind": "full", "name": "new", "learning_rate": 3e-3}, mistyped])
    before = len(list((folder / "runs" / "artifacts" / "train").iterdir()))
    try:
        done = tuneline(folder, "run", "toy.yaml", TUNELINE_FAULT="train.load:1:kill")
    finally:
        write_experiment(folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (10, 1), done.stderr
    assert "methods[mistyped]: target_modules: 'no_such_layer' matches no linear layer" in done.stderr
    assert len(list((folder / "runs" / "artifacts" / "train").iterdir())) == before


def test_show_prints_the_comparison_of_a_finished_run(finished: Finished) -> None:
    folder, _ = finished
    shown = tuneline(folder, "show", "toy")
    assert shown.returncode == 0
    assert "prompt_tuning" in shown.stdout
    unknown = tuneline(folder, "show", "tyo")
    assert (unknown.returncode, "Did you mean toy?" in unknown.stderr) == (10, True)
