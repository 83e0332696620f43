"""What is left when a run is killed, stopped, started twice, or loses its tracking server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.flows.worlds import (
    cells_of,
    client,
    kill,
    parents_of,
    processes_in,
    runs_of,
    started,
    tuneline,
    wait_for_step,
    weights_of,
    write_experiment,
    write_world,
)
from tests.launch.worlds import wait_until
from tests.ports import refusing_port
from tests.prefect_server import wait_until_up

pytestmark = pytest.mark.timeout(1500)
LONG = {"max_steps": 120, "per_device_train_batch_size": 4, "save_steps": 5}
ONE = [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA for 120 steps, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    write_world(folder)
    write_experiment(folder, training=LONG, methods=ONE)
    done = tuneline(folder, "run", "toy.yaml")
    assert done.returncode == 0, done.stderr
    return folder


def loss_series(mlflow: MlflowClient, label: str = "lora") -> list[tuple[int, float]]:
    runs = runs_of(mlflow)
    run = cells_of(runs, parents_of(runs)[-1])[label]
    return [(point.step, point.value) for point in mlflow.get_metric_history(run.info.run_id, "train/loss")]


def test_killed_and_started_again_it_ends_with_the_same_bytes_series_and_closed_runs(
    whole: Path, tmp_path: Path
) -> None:
    write_world(tmp_path)
    write_experiment(tmp_path, training=LONG, methods=ONE)
    with started(tmp_path, "run", "toy.yaml") as process:
        wait_for_step(tmp_path, 12, process)
        kill(process, signal.SIGKILL)
        wait_until(lambda: processes_in(tmp_path) == [])
    again = tuneline(tmp_path, "run", "toy.yaml")
    assert again.returncode == 0, again.stderr
    assert weights_of(tmp_path) == weights_of(whole)
    mlflow = client(tmp_path)
    assert loss_series(mlflow) == loss_series(client(whole))
    assert [step for step, _ in loss_series(mlflow)] == list(range(1, 121))
    assert {run.info.status for run in runs_of(mlflow)} == {"KILLED", "FINISHED"}


@pytest.mark.system
def test_sigterm_checkpoints_closes_the_runs_and_exits_143(whole: Path, tmp_path: Path) -> None:
    write_world(tmp_path)
    write_experiment(tmp_path, training=LONG, methods=ONE)
    with started(tmp_path, "run", "toy.yaml") as process:
        wait_for_step(tmp_path, 12, process)
        kill(process, signal.SIGTERM)
        assert process.returncode == 143
        wait_until(lambda: processes_in(tmp_path) == [])
    runs = runs_of(client(tmp_path))
    parent = parents_of(runs)[-1]
    assert (parent.info.status, cells_of(runs, parent)["lora"].info.status) == ("KILLED", "KILLED")
    assert tuneline(tmp_path, "run", "toy.yaml").returncode == 0
    assert weights_of(tmp_path) == weights_of(whole)


@pytest.mark.system
def test_row_42_the_same_experiment_started_ten_times_at_once_trains_each_cell_once(
    whole: Path, tmp_path: Path
) -> None:
    write_world(tmp_path)
    write_experiment(tmp_path, training=LONG, methods=ONE)
    with ExitStack() as stack:
        processes = [stack.enter_context(started(tmp_path, "run", "toy.yaml")) for _ in range(10)]
        results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, results
    logs = [path.read_text(encoding="utf-8") for path in (tmp_path / "runs/work").glob("*/log.txt")]
    assert sum(log.count("train_runtime") for log in logs) == 1
    assert weights_of(tmp_path) == weights_of(whole)
    assert len(client(tmp_path).search_model_versions("name = 'toy'")) == 1
    assert {run.info.status for run in runs_of(client(tmp_path))} == {"FINISHED"}


def test_row_36_the_tracking_server_may_be_down_for_the_whole_training(whole: Path, tmp_path: Path) -> None:
    write_world(tmp_path)
    with refusing_port() as port:
        uri = f"http://127.0.0.1:{port}"
        tracking = {"uri": uri, "flush_seconds": 1}
        write_experiment(tmp_path, training=LONG, methods=ONE, tracking=tracking)
        offline = tuneline(tmp_path, "run", "toy.yaml")
    assert offline.returncode == 21
    assert "exact_match" in offline.stdout, "what was computed is shown, although it could not be registered"
    assert len(offline.stderr.splitlines()) == 1 and "run the same command again" in offline.stderr.lower()
    assert weights_of(tmp_path) == weights_of(whole)
    with _mlflow_server(tmp_path, port):
        online = tuneline(tmp_path, "run", "toy.yaml", "tracking.flush_seconds=120")
        assert online.returncode == 0, online.stderr
        mlflow = MlflowClient(uri)
        runs = runs_of(mlflow)
        first, second = parents_of(runs)
        made = cells_of(runs, first)["lora"]
        assert made.info.status == "FINISHED"
        series = mlflow.get_metric_history(made.info.run_id, "train/loss")
        assert [(point.step, point.value) for point in series] == loss_series(client(whole))
        assert cells_of(runs, second)["lora"].data.tags["tuneline.cached_from"] == made.info.run_id
        assert mlflow.get_model_version_by_alias("toy", "challenger").version


@contextmanager
def _mlflow_server(folder: Path, port: int) -> Iterator[None]:
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"),
                *("--artifacts-destination", str(folder / "server-artifacts")),
            ],
            cwd=folder.parent,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", server)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
