"""The parts of the launcher that need no cluster: what is handed in, what is read, what an end means."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import DependencyError, ResourceError
from tasks.launch.launchers._slurm_addresses import (
    endpoint,
    free_port_near,
    own_address,
    reachable_addresses,
)
from tasks.launch.launchers._slurm_client import JobView, ask, parse_job
from tasks.launch.launchers._slurm_exits import read_node_exits, verdict, write_node_exit
from tasks.launch.launchers._slurm_gang import described
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
from tasks.training.memory import killed_for_memory, kills_so_far
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
