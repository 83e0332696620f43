"""Rows of faults.md about processes: 3, 4, 5, 13 and 52. Whichever dies, nobody is left, and the next start goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from prefect.states import Cancelling

from flows.compare_methods import compare_methods
from flows.reconcile import prefect_client
from tasks.launch.launchers.local import LocalGang, LocalLauncher
from tasks.launch.ownership import OWNER, owner_named
from tasks.training.recording import read_progress
from tests.faults.processes import agents_of, children_of, of_run, ranks_of, server_of, told_by_ranks
from tests.flows.worlds import (
    client,
    runs_of,
    started,
    tuneline,
    wait_for_step,
    weights_of,
    write_experiment,
    write_world,
)
from tests.launch.worlds import job_in, said, wait_until

PATIENCE_SECONDS = 600
"""For what a whole pipeline takes on a busy machine."""
TWO_RANKS = {"ranks_per_node": 2, "max_restarts": 0}
LONG = {"max_steps": 100_000, "per_device_train_batch_size": 4, "save_steps": 5}
SHORT = LONG | {"max_steps": 120}
ONE = [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}]


def gone(pipeline: int) -> None:
    """Wait until nothing that the pipeline has started is alive, and say how long that took."""
    begun = time.monotonic()
    try:
        wait_until(lambda: of_run(pipeline) == [])
    except AssertionError:
        pytest.fail(f"still alive: {[process.cmdline() for process in of_run(pipeline)]}")
    print(f"nothing left after {time.monotonic() - begun:.2f} s")  # noqa: T201


def stop_then_kill(victim: psutil.Process, parent: psutil.Process) -> None:
    """A stopped process cannot look for its parent, and hears no signal but SIGKILL."""
    victim.suspend()
    wait_until(lambda: victim.status() == psutil.STATUS_STOPPED)
    parent.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    """LoRA for 120 steps on two ranks, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    write_world(folder)
    write_experiment(folder, training=SHORT, methods=ONE, distributed=TWO_RANKS)
    done = tuneline(folder, "run", "toy.yaml")
    assert done.returncode == 0, done.stderr
    return folder


def again_as_undisturbed(folder: Path, whole: Path) -> None:
    again = tuneline(folder, "run", "toy.yaml")
    assert again.returncode == 0, again.stderr
    assert weights_of(folder) == weights_of(whole)
    assert "RUNNING" not in {run.info.status for run in runs_of(client(folder))}
    assert list((folder / "runs" / "flow-runs").iterdir()) == []


@contextmanager
def training(folder: Path, **distributed: int) -> Iterator[subprocess.Popen[str]]:
    """A pipeline that has trained some steps on two ranks, and committed checkpoints."""
    write_world(folder)
    write_experiment(folder, training=SHORT, methods=ONE, distributed=TWO_RANKS | distributed)
    with started(folder, "run", "toy.yaml") as process:
        wait_for_step(folder, 12, process)
        yield process


def last_words(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    gone(process.pid)
    assert len(errors.splitlines()) <= 1, errors
    return errors


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_row_03_the_ranks_of_a_killed_agent_end_and_the_run_goes_on_from_the_last_checkpoint(
    whole: Path, tmp_path: Path
) -> None:
    with training(tmp_path) as process:
        agents_of(process.pid)[0].kill()
        errors = last_words(process)

    assert process.returncode == 32
    assert "died" in errors and "log.txt" in errors
    again_as_undisturbed(tmp_path, whole)


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_row_04_nothing_outlives_a_killed_pipeline_and_the_next_start_closes_what_it_left_open(
    whole: Path, tmp_path: Path
) -> None:
    with training(tmp_path) as process:
        process.kill()
        last_words(process)
    (note,) = (tmp_path / "runs" / "flow-runs").iterdir()
    again_as_undisturbed(tmp_path, whole)
    with prefect_client() as prefect:
        assert prefect.read_flow_run(uuid.UUID(note.stem)).state_name == "Crashed"


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_row_05_a_killed_rank_takes_its_peers_with_it_and_after_the_last_restart_it_is_named(
    whole: Path, tmp_path: Path
) -> None:
    with training(tmp_path, max_restarts=1) as process:
        first = ranks_of(process.pid)[1]
        first.kill()
        wait_until(lambda: 1 in (ranks := ranks_of(process.pid)) and ranks[1].pid != first.pid)
        ranks_of(process.pid)[1].kill()
        errors = last_words(process)

    assert process.returncode == 32
    assert f"rank 1 on host {socket.gethostname()} was killed by SIGKILL" in errors
    again_as_undisturbed(tmp_path, whole)


def victim_and_parent(pipeline: int, victim: str) -> tuple[psutil.Process, psutil.Process]:
    """A victim and its parent."""
    processes = {
        "pipeline": lambda: psutil.Process(pipeline),
        "agent": lambda: agents_of(pipeline)[0],
        "rank 0": lambda: ranks_of(pipeline)[0],
        "rank 1": lambda: ranks_of(pipeline)[1],
        "child": lambda: children_of(pipeline)[0],
        "server": lambda: server_of(pipeline),
    }
    found = processes[victim]()
    return found, found if victim == "pipeline" else psutil.Process(found.ppid())


VICTIMS = ("pipeline", "agent", "rank 0", "rank 1", "child", "server")
DEATHS = [
    pytest.param(victim, stopped, id=f"{victim}-{how}", marks=pytest.mark.cross if (place + stopped) % 2 else ())
    for place, victim in enumerate(VICTIMS)
    for stopped, how in ((False, "killed"), (True, "stopped-and-its-parent-killed"))
]
"""In CI each of them dies in one of the two ways, in turn."""


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("victim", "stopped"), DEATHS)
def test_whoever_dies_no_process_of_the_run_is_left(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str, stopped: bool
) -> None:
    if victim == "server":  # the pipeline starts one of its own
        monkeypatch.delenv("PREFECT_API_URL")
        monkeypatch.delenv("PREFECT_HOME")
    write_world(tmp_path)
    steps = {"max_steps": 6} if victim == "child" else {}  # whoever evaluates needs the slot of those who train
    write_experiment(tmp_path, training=LONG | steps, methods=ONE, distributed=TWO_RANKS)
    fault = {"TUNELINE_FAULT": "evaluate.batch:1:hang"} if victim == "child" else {}
    with started(tmp_path, "run", "toy.yaml", **fault) as process:
        if victim == "child":
            wait_until_evaluating(tmp_path, process)
        else:
            wait_for_step(tmp_path, 3, process)
            wait_until(lambda: len(told_by_ranks(tmp_path / "runs" / "work")) == 2)
        found, parent = victim_and_parent(process.pid, victim)
        if stopped:
            stop_then_kill(found, parent)
        else:
            found.kill()
        if victim in ("child", "server") and not stopped:  # the run goes on, and has far to go
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)
        gone(process.pid)


def wait_until_evaluating(folder: Path, process: subprocess.Popen[str]) -> None:
    """Whichever is evaluated first, its child hangs at the fault that was asked for."""
    boards = folder / "runs" / "reports" / "toy" / "progress"

    def evaluates() -> bool:
        assert process.poll() is None, process.communicate()
        return any('"evaluate"' in path.read_text() for path in boards.glob("*.json"))

    wait_until(evaluates, PATIENCE_SECONDS)
    wait_until(lambda: children_of(process.pid) != [])


def test_row_52_two_gangs_at_once_meet_at_ports_of_their_own_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gangs: list[LocalGang] = []
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        foreign = {"MASTER_ADDR": "10.255.0.1", "MASTER_PORT": port, "RANK": "5", "WORLD_SIZE": "9"}
        for name, value in (foreign | {"PET_NNODES": "4", "TORCHELASTIC_RUN_ID": "another"}).items():
            monkeypatch.setenv(name, value)
        jobs = [job_in(tmp_path / name, ranks=2, action="end") for name in ("one", "other")]
        threads = [threading.Thread(target=lambda job=job: gangs.append(LocalLauncher().start(job))) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: all(gang.poll() is not None for gang in gangs))
    assert [gang.poll() for gang in gangs] == [0, 0], [job.log.read_text() for job in jobs]
    ports = []
    for job in jobs:
        environments = [rank["environment"] for rank in said(job.request.parent, ranks=2)]
        assert [seen["RANK"] for seen in environments] == ["0", "1"]
        assert {seen["WORLD_SIZE"] for seen in environments} == {"2"}
        ports.append({seen["MASTER_PORT"] for seen in environments})
    assert len(ports[0] | ports[1]) == 2 and port not in ports[0] | ports[1]


class Deployed:
    """The flow as a deployment, and a worker that runs it in a folder with a long experiment."""

    def __init__(self, folder: Path, pool: str, worker: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.worker = worker
        self._pool = pool

    def run(self) -> uuid.UUID:
        """Have the worker run it."""
        with prefect_client() as prefect:
            deployment = prefect.create_deployment(
                flow_id=prefect.create_flow(compare_methods),
                name=self._pool,
                work_pool_name=self._pool,
                entrypoint="flows.compare_methods.compare_methods",
                path=str(self.folder),
                job_variables={"working_dir": str(self.folder)},
            )
            run = prefect.create_flow_run_from_deployment(deployment, parameters={"experiment": "toy.yaml"})
            return uuid.UUID(str(run.id))


@pytest.fixture
def deployed(tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_world(tmp_path)
    write_experiment(tmp_path, training=LONG, methods=ONE, distributed=TWO_RANKS)
    pool = f"pool-{uuid.uuid4().hex[:8]}"
    with _worker(tmp_path, pool) as worker:
        yield Deployed(tmp_path, pool, worker)


@contextmanager
def _worker(folder: Path, pool: str) -> Iterator[subprocess.Popen[bytes]]:
    """`prefect worker start`, once its pool is there."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    environment = os.environ | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: "started" in (folder / "worker.log").read_text())
        yield worker
    finally:
        for process in psutil.Process(worker.pid).children(recursive=True) if worker.poll() is None else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def flow_process(folder: Path) -> int:
    """Pid of the process that runs the flow, once both ranks have trained some steps."""
    works = folder / "runs" / "work"

    def trains() -> bool:
        seen = [read_progress(path) for path in works.glob("*/progress.json")]
        return any(progress and progress.step >= 6 for progress in seen) and len(told_by_ranks(works)) == 2

    wait_until(trains, PATIENCE_SECONDS)
    owner = owner_named(psutil.Process(told_by_ranks(works)[0]).environ()[OWNER])
    assert owner and owner.lives
    return owner.pid


def state_of(run: uuid.UUID) -> str:
    with prefect_client() as prefect:
        return str(prefect.read_flow_run(run).state_name)


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_row_13_cancel_through_prefect_ends_with_a_checkpoint_in_the_state_cancelled(deployed: Deployed) -> None:
    run = deployed.run()
    pipeline = flow_process(deployed.folder)
    before = read_step(deployed.folder)
    with prefect_client() as prefect:
        prefect.set_flow_run_state(run, Cancelling())
    wait_until(lambda: not psutil.pid_exists(pipeline))
    gone(pipeline)

    wait_until(lambda: state_of(run) == "Cancelled")
    assert max(saved_steps(deployed.folder)) >= before
    assert {run.info.status for run in runs_of(client(deployed.folder))} <= {"KILLED", "FINISHED"}
    assert deployed.worker.poll() is None


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("victim", ["worker", "flow"])
def test_row_04_nothing_outlives_a_killed_worker_or_flow_process(deployed: Deployed, victim: str) -> None:
    run = deployed.run()
    pipeline = flow_process(deployed.folder)
    os.kill(deployed.worker.pid if victim == "worker" else pipeline, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pipeline) or psutil.Process(pipeline).status() == psutil.STATUS_ZOMBIE)
    gone(pipeline)

    assert tuneline(deployed.folder, "reconcile").returncode == 0
    assert {run.info.status for run in runs_of(client(deployed.folder))} <= {"KILLED", "FINISHED"}
    assert state_of(run) == "Crashed"


def read_step(folder: Path) -> int:
    seen = [read_progress(path) for path in (folder / "runs" / "work").glob("*/progress.json")]
    return max(progress.step for progress in seen if progress)


def saved_steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in (folder / "runs" / "work").glob("*/checkpoints/step-*")]
