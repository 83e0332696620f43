"""The parts of the launcher that need no cluster: what is handed in, what is read, what an end means."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError, DependencyError, ResourceError
from tasks.launch.kills import Kills, kills_so_far
from tasks.launch.launchers import _slurm_client as client
from tasks.launch.launchers import _slurm_node
from tasks.launch.launchers._slurm_addresses import (
    endpoint,
    free_port_near,
    own_address,
    reachable_addresses,
)
from tasks.launch.launchers._slurm_batch import Batch
from tasks.launch.launchers._slurm_client import JobView, ask, parse_job
from tasks.launch.launchers._slurm_exits import read_exit, read_node_exits, verdict, write_exit, write_node_exit
from tasks.launch.launchers._slurm_gang import SlurmGang, described
from tasks.launch.launchers._slurm_script import (
    PLAN,
    SCRIPT,
    BatchPlan,
    exported_environment,
    mark_of,
    queue_name,
    submission,
    write_script,
)
from tasks.models.values import BaseModel
from tasks.training.memory import killed_for_memory
from tests.launch.worlds import job_in
from tests.training.worlds import LORA, request_in, toy_cell

HOSTILE = "lora $(touch pwned) `id`; JobState=COMPLETED\n'\""


def test_no_text_of_a_user_is_ever_read_by_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a $(touch pwned) 'b' %j"
    job = job_in(folder, action="end").model_copy(update={"name": HOSTILE})
    write_script(BatchPlan(job=job, max_requeues=1))

    words = shlex.split((folder / SCRIPT).read_text().splitlines()[1])
    assert words[0] == "exec" and words[-1] == str(folder / PLAN)
    assert BatchPlan.model_validate(json.loads((folder / PLAN).read_text())).job.name == HOSTILE
    echoing = (folder / SCRIPT).read_text().replace("exec ", "printf '%s\\n' ", 1)
    echoed = subprocess.run(["sh", "-c", echoing], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert echoed.stdout.splitlines() == words[1:]
    assert not (tmp_path / "pwned").exists()


def test_the_name_in_the_queue_is_plain_and_belongs_to_one_folder(tmp_path: Path) -> None:
    names = [
        queue_name(job_in(tmp_path / folder, action="end").model_copy(update={"name": HOSTILE})) for folder in "ab"
    ]
    assert names[0] != names[1]
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in names)


def test_a_job_is_another_one_when_its_request_or_its_options_are(tmp_path: Path) -> None:
    job = job_in(tmp_path, action="end")
    marks = {mark_of(("--nodes=1",), job), mark_of(("--nodes=2",), job)}
    job_in(tmp_path, action="sleep")
    marks.add(mark_of(("--nodes=1",), job))
    assert len(marks) == 3


def test_ranks_get_nothing_of_this_machine_and_no_secret(tmp_path: Path) -> None:
    useful = {"PATH": "/bin", "PYTHONPATH": "/project", "HF_HOME": "/shared/hub", "NCCL_DEBUG": "INFO"}
    useless = {
        "HUB_TOKEN": "canary",
        "MLFLOW_TRACKING_URI": "http://u:canary@h",
        "BASH_FUNC_x%%": "() { canary; }",
        "SLURM_MEM_PER_CPU": "1",
        "SBATCH_PARTITION": "x",
        "CUDA_VISIBLE_DEVICES": "3",
        "TMPDIR": "/tmp/mine",
        "MASTER_PORT": "1",
        "RANK": "3",
        "SLURM_CONF": "/etc/slurm.conf",
    }
    asked = submission(job_in(tmp_path, action="end"), (), useful | useless, tmp_path)

    listed = next(word for word in asked.command if word.startswith("--export="))
    exported = set(listed.removeprefix("--export=").split(","))
    assert useful.keys() | {"HF_HUB_OFFLINE"} <= exported
    assert not useless.keys() & exported
    assert "canary" not in str(asked)
    assert asked.environment.keys() - exported == {"SLURM_CONF"}  # which sbatch itself needs


def test_on_accelerators_torch_chooses_its_threads(tmp_path: Path) -> None:
    job = job_in(tmp_path, action="end")
    on_gpu = job.model_copy(update={"layout": job.layout.model_copy(update={"device": "cuda"})})
    assert exported_environment({}, job)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in exported_environment({}, on_gpu)


def test_a_pattern_in_the_path_of_the_log_is_taken_as_it_stands(tmp_path: Path) -> None:
    asked = submission(job_in(tmp_path / "100%j", action="end"), (), {}, tmp_path)
    assert f"--output={tmp_path}/100%%j/log.txt" in asked.command


LINE = (
    "JobId=7 JobName=x UserId=root(0) Account=a QOS=normal JobState={} Reason={} Dependency=(null) Requeue=1 "
    "Restarts={} BatchFlag=1 Reboot=0 ExitCode={} RunTime=00:00:21 PreemptTime=None "
    "Comment=JobState=COMPLETED ExitCode=0:0 Restarts=9"
)


def test_a_job_is_read_by_the_first_of_each_word_so_that_a_comment_cannot_pretend() -> None:
    assert parse_job(LINE.format("FAILED", "NonZeroExitCode", 1, "3:0")) == JobView(
        state="FAILED", reason="NonZeroExitCode", restarts=1, exit_code=3
    )
    assert parse_job(LINE.format("CANCELLED", "None", 0, "0:15")).exit_code == 143
    with pytest.raises(DependencyError, match="said 'slurm_load_jobs'"):
        parse_job("slurm_load_jobs")


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (JobView(state="PENDING", reason="Resources"), "queued (Resources)"),
        (JobView(state="PENDING", reason="BeginTime", restarts=1), "queued (BeginTime), restart 1"),
        (JobView(state="CONFIGURING"), "the nodes are being made ready"),
        (JobView(state="SUSPENDED"), "suspended"),
        (
            JobView(state="REQUEUE_HOLD", reason="job_requeued_in_held_state"),
            "requeue_hold (job_requeued_in_held_state)",
        ),
        (JobView(state="RUNNING", restarts=2), ""),
        (JobView(state="COMPLETED"), ""),
    ],
    ids=str,
)
def test_a_person_is_told_why_a_job_does_not_run(view: JobView, words: str) -> None:
    assert described(view) == words


def test_without_slurms_programs_it_says_where_to_run() -> None:
    with pytest.raises(DependencyError, match="login node"):
        ask(["no-such-program-of-slurm"])


@pytest.mark.parametrize(
    ("srun", "nodes", "code"),
    [
        (0, [0, 0], 0),
        (143, [143, 11], 11),
        (143, [32, 139], 139),
        (143, [1, 143], 1),
        (137, [], 137),
        (143, [143], 143),
    ],
)
def test_of_several_nodes_the_one_that_knows_the_cause_is_believed(srun: int, nodes: list[int], code: int) -> None:
    assert verdict(srun, nodes) == code


def test_a_node_that_did_not_say_how_it_ended_is_left_out(tmp_path: Path) -> None:
    write_node_exit(tmp_path, "7", 1, 1, 11)
    write_node_exit(tmp_path, "7", 0, 0, 12)
    assert read_node_exits(tmp_path, "7", 1, nodes=2) == [11]


def test_what_slurm_killed_for_its_memory_is_told_as_that(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    error = killed_for_memory(ResourceError.exit_code, kills_so_far(), request)
    assert error is not None and "was killed (out of memory)" in error.what


@pytest.fixture
def in_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is one of job 7, whose plan it returns."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    write_script(BatchPlan(job=job_in(tmp_path, action="end"), max_requeues=1))
    return tmp_path / PLAN


@pytest.mark.parametrize(
    ("code", "kills", "told"),
    [
        (137, [Kills(0, 5), Kills(1, 6)], 20),
        (137, [Kills(1, 5), Kills(1, 6)], 137),
        (137, [Kills(None, 5), Kills(None, 6)], 20),
        (137, [Kills(None, None), Kills(None, None)], 137),
        (11, [Kills(0, 5), Kills(1, 6)], 11),
    ],
    ids=str,
)
def test_a_node_knows_that_the_kernel_killed_its_rank_for_lack_of_memory(
    in_job: Path, monkeypatch: pytest.MonkeyPatch, code: int, kills: list[Kills], told: int
) -> None:
    monkeypatch.setattr(_slurm_node, "run_agent", lambda arguments: code)
    monkeypatch.setattr(_slurm_node, "kills_so_far", lambda: kills[0])
    monkeypatch.setattr("tasks.launch.kills.kills_so_far", lambda: kills[1])
    assert _slurm_node.main([str(in_job), "127.0.0.1:5", "127.0.0.1"]) == told
    assert read_node_exits(in_job.parent, "7", 0, nodes=1) == [told]


def test_a_code_that_cannot_be_recorded_is_still_the_code(tmp_path: Path) -> None:
    write_exit(tmp_path / "gone", "7", 0, 20)
    write_node_exit(tmp_path / "gone", "7", 0, 0, 20)
    assert read_exit(tmp_path / "gone", "7", 0) is None


@pytest.fixture
def asked_of_slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the batch script asks; its signal handlers are taken away again."""
    asked: list[str] = []
    handled = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in handled}

    def answer(command: Sequence[str]) -> str:
        asked.append(" ".join(command))
        return LINE.format("RUNNING", "None", 0, "0:0")

    monkeypatch.setattr(client, "ask", answer)
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("signals", "requeued"),
    [
        ([signal.SIGUSR1], True),
        ([signal.SIGUSR2], False),
        ([signal.SIGUSR1, signal.SIGUSR2], False),
        ([signal.SIGUSR2, signal.SIGUSR1], False),
    ],
    ids=["time is up", "cancelled", "cancelled when the time is up", "the time is up when cancelled"],
)
def test_a_job_that_was_cancelled_never_goes_back_into_the_queue_by_itself(
    in_job: Path, asked_of_slurm: list[str], signals: list[signal.Signals], requeued: bool
) -> None:
    batch = Batch(in_job)
    for number in signals:
        os.kill(os.getpid(), number)
    assert batch._ended(143) == 143
    assert ("scontrol requeue 7" in asked_of_slurm) == requeued


@pytest.mark.parametrize(("own", "code"), [(137, 20), (None, 20), (0, 20)])
def test_a_job_that_slurm_ended_for_its_memory_is_no_rank_that_just_died(
    tmp_path: Path, own: int | None, code: int
) -> None:
    if own is not None:
        write_exit(tmp_path, "7", 0, own)
    assert (
        SlurmGang("7", tmp_path, 1)._code_of(parse_job(LINE.format("OUT_OF_MEMORY", "OutOfMemory", 0, "0:125"))) == code
    )


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("COMPLETED|0:0", 0),
        ("FAILED|3:0", 3),
        ("CANCELLED by 0|0:0", 143),
        ("OUT_OF_MEMORY|0:125", 20),
        ("NODE_FAIL|0:0", 32),
        ("RUNNING|0:0", None),
        ("Slurm accounting storage is disabled", None),
        ("", None),
    ],
)
def test_what_accounting_says_is_read_and_never_guessed(
    monkeypatch: pytest.MonkeyPatch, said: str, code: int | None
) -> None:
    monkeypatch.setattr(client, "ask", lambda command: said)
    assert client.accounted_exit_code("7") == code


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program of that name, a line of shell, before those of Slurm."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def write(name: str, line: str) -> None:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    return write


@pytest.mark.parametrize("line", ["echo 12", "echo '12;here'", "echo 'Welcome 3'; echo 12"])
def test_the_number_of_a_job_is_found_whatever_a_site_says_beside_it(
    program: Callable[[str, str], None], line: str
) -> None:
    program("sbatch", line)
    assert client.submit(["sbatch"], os.environ) == "12"


def test_an_answer_without_a_number_is_no_job(program: Callable[[str, str], None]) -> None:
    program("sbatch", "echo Submitted batch job 12")
    with pytest.raises(ConfigError, match="which is no number of a job"):
        client.submit(["sbatch"], os.environ)


def test_what_a_user_filters_his_own_lists_by_hides_no_job_of_ours(
    program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_STATES", "SCANCEL_STATE", "SACCT_FORMAT", "SLURM_CLUSTERS", "SLURM_CONF"):
        monkeypatch.setenv(name, "mine")
    program("squeue", "env")
    seen = ask(["squeue"])
    assert "SLURM_CONF=mine" in seen
    assert not [line for line in seen.splitlines() if line.endswith("=mine") and not line.startswith("SLURM_CONF=")]


def carried_address() -> str:
    """An address of this machine that others could reach."""
    found = [
        entry.address
        for name, entries in sorted(psutil.net_if_addrs().items())
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]
    if not found:
        pytest.skip("this machine has no network")
    return found[0]


def test_a_first_node_that_knows_itself_as_loopback_is_known_by_the_address_towards_the_others() -> None:
    address = carried_address()
    assert reachable_addresses(["127.0.1.1", address]) == [address, address]
    assert reachable_addresses(["127.0.0.1", "127.0.0.1"]) == ["127.0.0.1", "127.0.0.1"]
    assert reachable_addresses(["localhost"]) == ["127.0.0.1"]


def test_a_node_that_carries_another_address_than_slurm_knows_takes_that_of_its_route() -> None:
    address = carried_address()
    assert own_address([address, "192.0.2.1"], 1) == address
    assert own_address(["127.0.0.1", address], 0) == "127.0.0.1"


def test_a_port_that_is_taken_is_passed_over_and_addresses_of_both_kinds_make_an_endpoint() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert free_port_near(port, "127.0.0.1") > port
    assert endpoint("10.0.0.1", 5) == "10.0.0.1:5"
    assert endpoint("fd00::1", 5) == "[fd00::1]:5"
