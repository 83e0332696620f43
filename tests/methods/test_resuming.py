"""Killed and started again, every method ends with the bytes of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from signal import SIGKILL

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.faults import VARIABLE, arm
from tasks.methods import Conditions, Method, parse_method
from tasks.models import BaseModel
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainRequest, TrainResult
from tests.methods.cases import Settings, case_name, trainable_cases
from tests.methods.conftest import Homes
from tests.methods.sources import sources_of
from tests.training.worlds import in_child, request_in, trained

TRAINING = TrainingSettings(max_steps=6, per_device_train_batch_size=4, save_steps=2, save_total_limit=1)
KILLED_IN = "train.step:6:kill"
"""Step 5 is lost, and two steps are left for what was forgotten to show."""
IN_CI = 4
"""Every fourth kind is met in CI, by a worker of its own; `make test-cross` meets the others."""
_ROOT = Path(__file__).parents[2]


def cell_of(settings: Settings, base: BaseModel, rows: Artifact) -> Cell:
    method = parse_method(settings)
    spec = CellSpec(label="x", method=dict(settings), seed=0, sources=sources_of(method, base))
    conditions = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
    return plan_cell(spec, base, rows, TRAINING, conditions)


def result_in(request: TrainRequest) -> TrainResult:
    return TrainResult.model_validate_json((request.output / "result.json").read_text(encoding="utf-8"))


def killed(request: TrainRequest) -> None:
    os.environ[VARIABLE] = KILLED_IN
    arm()
    trained(request)


@pytest.mark.parametrize("settings", trainable_cases(), ids=case_name)
def test_after_a_sigkill_training_goes_on_to_the_same_bytes(
    settings: Settings, base: BaseModel, rows: Artifact, tmp_path: Path
) -> None:
    cell = cell_of(settings, base, rows)
    whole, cut = (request_in(tmp_path / name, cell) for name in ("whole", "cut"))
    assert in_child(partial(trained, whole)) == 0
    assert in_child(partial(killed, cut)) == -SIGKILL
    assert [path.name for path in (cut.work / "checkpoints").glob("step-*")] == ["step-00000004"]
    assert in_child(partial(trained, cut)) == 0
    assert result_in(cut) == result_in(whole)
    assert json.loads((cut.output / "cost.json").read_text())["resumed_from_step"] == 4


def worker(request: TrainRequest, fault: str = "") -> tuple[int, str]:
    """Exit code of the module that the pipeline starts, in a process of its own, and where it failed what it said."""
    path = request.work / "request.json"
    path.write_text(request.model_dump_json(), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", VARIABLE: fault}  # launchers do too
    command = [sys.executable, "-m", "tasks.training.worker", str(path)]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr[-2000:] if done.returncode > 0 else ""


def acts_between_steps(settings: Settings) -> bool:
    """Whether a worker must find more again than trainable tensors, or is one of two that stand for all others."""
    method = type(parse_method(settings))
    hooks = ("training_state", "before_step", "training_loss", "sources")
    return settings["kind"] in ("full", "p_tuning") or any(
        getattr(method, hook) is not getattr(Method, hook) for hook in hooks
    )


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("sample", [True, pytest.param(False, marks=pytest.mark.cross)], ids=["in CI", "others"])
def test_a_worker_killed_at_a_method_with_a_state_of_its_own_is_taken_up_by_the_next_one(
    home_of: Homes, rows: Artifact, tmp_path: Path, sample: bool
) -> None:
    """One case per kind, since a worker takes seconds to import its libraries; two at a time."""
    every = {str(case["kind"]): case for case in reversed(trainable_cases()) if acts_between_steps(case)}
    cases = {kind: case for place, (kind, case) in enumerate(sorted(every.items())) if (place % IN_CI == 0) == sample}
    assert len(cases) > 1
    cells = {kind: cell_of(case, home_of(case), rows) for kind, case in cases.items()}

    def killed_and_taken_up(kind: str) -> tuple[tuple[int, str], ...]:
        whole, cut = (request_in(tmp_path / f"{kind}-{name}", cells[kind]) for name in ("whole", "cut"))
        ends = worker(whole), worker(cut, KILLED_IN), worker(cut)
        if ends == ended_well:
            assert result_in(cut) == result_in(whole), kind
        return ends

    ended_well = ((0, ""), (-SIGKILL, ""), (0, ""))
    with ThreadPoolExecutor(2) as pool:
        ends = dict(zip(cells, pool.map(killed_and_taken_up, cells), strict=True))
    assert ends == dict.fromkeys(cells, ended_well)
