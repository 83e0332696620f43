"""A training that somebody cancels in Prefect's page, again and again, ends in the bytes of an undisturbed one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.training.recording import read_metrics
from tests.browser import needs_chromium
from tests.flows.worlds import tuneline, weights_of, write_experiment, write_world
from tests.launch.worlds import wait_until
from tests.services.person import Person
from tests.services.stack import Furnish, RunningStack, processes_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500), needs_chromium]

LORA = [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}]
LONG = {"max_steps": 100, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "save_steps": 7}
CANCELS = 2
"""The benchmark `cancel` does it ten times, and measures how long it takes."""
CHANGES = {"name": "long", "training": LONG, "methods": LORA, "registry": {}}

STATUSES = """
from mlflow import MlflowClient
client = MlflowClient()
[experiment] = client.search_experiments(filter_string="name = 'long'")
runs = client.search_runs([experiment.experiment_id])
print(*sorted({run.info.status for run in runs}))
"""


@pytest.fixture(scope="module")
def stack(furnish: Furnish) -> RunningStack:
    return furnish("long", **CHANGES)


def start(person: Person) -> str:
    person.open_form("compare-methods")
    person.choose("experiment", "experiments/long.yaml")
    return person.submit()


def step_of(stack: RunningStack) -> int:
    """How far the training is, by the last step that it recorded; 0 before it begins."""
    lines = [read_metrics(path)[-1:] for path in (stack.folder / "runs" / "work").glob("*/metrics.jsonl")]
    return max((line.step for [line] in filter(None, lines)), default=0)


def statuses(stack: RunningStack) -> str:
    """Of all runs in MLflow."""
    command = [sys.executable, "-c", STATUSES]
    return subprocess.run(
        command, cwd=stack.folder, env=stack.client_environment(), capture_output=True, text=True, check=True
    ).stdout.strip()


def cancelled_after(person: Person, stack: RunningStack, reached: int) -> int:
    """Start, cancel it some steps later, and look at what is left; the step of its checkpoint."""
    flow_run = start(person)
    wait_until(lambda: step_of(stack) > reached + 3, 300, 0.5)
    person.cancel()
    wait_until(lambda: processes_of(flow_run) == [], 120, 1)
    person.wait_for_state("Cancelled")
    person.look("cancelled")
    step = step_of(stack)
    assert reached < step < LONG["max_steps"]
    kept = [path.name for path in (stack.folder / "runs" / "work").glob("*/checkpoints/*")]
    assert f"step-{step:08}" in kept
    assert not list((stack.folder / "runs" / "flow-runs").glob("*"))
    assert "while running hook" not in stack.stack.log("worker").read_text(encoding="utf-8")
    wait_until(lambda: "RUNNING" not in statuses(stack), 60, 1)
    assert "KILLED" in statuses(stack)
    return step


def test_a_cancel_in_the_page_leaves_no_process_and_a_checkpoint_and_again_it_ends_in_the_same_bytes(
    person: Person, stack: RunningStack, tmp_path: Path
) -> None:
    reached = 0
    for _ in range(CANCELS):
        reached = cancelled_after(person, stack, reached)
    start(person)
    assert person.wait_for_state("Completed", "Failed", "Crashed") == "Completed"

    undisturbed = tmp_path / "undisturbed"
    write_world(undisturbed)
    write_experiment(undisturbed, **CHANGES)
    done = tuneline(undisturbed, "run", "toy.yaml")
    assert done.returncode == 0, done.stderr
    assert weights_of(stack.folder)["lora"] == weights_of(undisturbed)["lora"]
