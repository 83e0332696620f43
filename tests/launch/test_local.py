"""Real torchrun gangs: how they end, what they see, and that nobody is left."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.foundation.errors import ResourceError
from tasks.launch.failure import FailedRank, read_failed_rank, write_failed_rank
from tasks.launch.gangs import Gangs
from tasks.launch.launchers.local import LocalGang, LocalLauncher
from tests.launch.worlds import alive, job_in, killed_after, pids_of, said, wait_until


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[LocalGang]]:
    """Gangs that a test started; whatever happens to the test, they end with it."""
    gangs: list[LocalGang] = []
    yield gangs
    for gang in gangs:
        gang.cancel(0)


def ended(gang: LocalGang) -> int:
    wait_until(lambda: gang.poll() is not None)
    code = gang.poll()
    assert code is not None
    return code


def test_two_ranks_end_well_without_secrets_and_with_their_devices(
    tmp_path: Path, started: list[LocalGang], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "canary")
    monkeypatch.setenv("DB_PASSWORD", "canary")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:canary@host")
    monkeypatch.setenv("HARMLESS", "kept")
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, devices=("4", "6"), action="end"))
    started.append(gang)

    assert ended(gang) == 0
    log = (tmp_path / "log.txt").read_text()
    assert "rank 0 of 2 speaks" in log and "rank 1 of 2 speaks" in log
    for rank in said(tmp_path, ranks=2):
        environment = rank["environment"]
        assert "canary" not in str(environment)
        assert environment["CUDA_VISIBLE_DEVICES"] == "4,6"
        assert environment["HARMLESS"] == "kept"
        assert environment["HF_HUB_OFFLINE"] == "1"


def test_the_first_failing_rank_gives_the_exit_code_and_takes_the_others_with_it(
    tmp_path: Path, started: list[LocalGang]
) -> None:
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="fail", rank=1, code=11))
    started.append(gang)
    pids = pids_of(tmp_path, ranks=2)
    (tmp_path / "go on").touch()

    assert ended(gang) == 11
    assert alive(pids) == []
    assert "exitcode  : 11" in (tmp_path / "log.txt").read_text()


def test_a_rank_that_a_signal_ended_gives_128_and_the_signal_and_the_log_is_appended(
    tmp_path: Path, started: list[LocalGang]
) -> None:
    (tmp_path / "log.txt").write_text("an earlier attempt\n")
    job = job_in(tmp_path, action="die")
    gang = LocalLauncher().start(job)
    started.append(gang)
    (tmp_path / "go on").touch()

    assert ended(gang) == 128 + signal.SIGKILL
    assert job.log.read_text().startswith("an earlier attempt\n")
    assert said(tmp_path)[0]["environment"]["OMP_NUM_THREADS"] == "1"


def test_the_rank_that_died_first_is_told_although_another_one_followed_at_once(
    tmp_path: Path, started: list[LocalGang]
) -> None:
    """Both are seen dead at torchrun's next look: its own order is that of their numbers."""
    write_failed_rank(tmp_path, FailedRank(rank=7, host="earlier", pid=1, exit_code=1, at=0))
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="die", rank=1))
    started.append(gang)
    ranks = said(tmp_path, ranks=2)
    (tmp_path / "go on").touch()

    assert ended(gang) == 128 + signal.SIGKILL
    failed = read_failed_rank(tmp_path)
    assert failed and (failed.rank, failed.pid, failed.exit_code) == (1, ranks[1]["pids"][0], -signal.SIGKILL)
    assert str(failed) == f"rank 1 on host {socket.gethostname()} was killed by SIGKILL"


def test_the_peers_of_a_killed_rank_are_not_waited_for_where_they_hear_nothing(
    tmp_path: Path, started: list[LocalGang]
) -> None:
    """As in a collective. torchrun would wait 30 s for them."""
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="ignore SIGTERM"))
    started.append(gang)
    ranks = said(tmp_path, ranks=2)
    os.kill(ranks[1]["pids"][0], signal.SIGKILL)

    assert ended(gang) == 128 + signal.SIGKILL
    assert "forcefully exiting" not in (tmp_path / "log.txt").read_text(), "torchrun lost its patience first"
    failed = read_failed_rank(tmp_path)
    assert failed and failed.rank == 1


def test_the_agent_passes_a_signal_on_once_and_bears_all_others(tmp_path: Path, started: list[LocalGang]) -> None:
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="sleep"))
    started.append(gang)
    said(tmp_path, ranks=2)
    os.kill(gang.pid, signal.SIGUSR1)
    wait_until(lambda: (tmp_path / "log.txt").read_text().count("gang_module.py") >= 4)  # the stacks of both ranks
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(gang.pid, number)
        wait_until(lambda: all((tmp_path / f"saving{rank}").exists() for rank in range(2)))
    (tmp_path / "go on").touch()

    assert ended(gang) == 143
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert "agent.py" in (tmp_path / "log.txt").read_text(), "it was asked for its stacks as well"


def test_cancel_wakes_those_who_were_stopped_so_that_they_can_save(tmp_path: Path, started: list[LocalGang]) -> None:
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="sleep"))
    started.append(gang)
    (tmp_path / "go on").touch()
    _, second = said(tmp_path, ranks=2)
    for pid in (gang.pid, second["pids"][0]):
        os.kill(pid, signal.SIGSTOP)
    gang.cancel(120)

    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert gang.poll() == 143


def test_a_gang_that_had_to_be_killed_has_not_ended_well(tmp_path: Path, started: list[LocalGang]) -> None:
    gang = LocalLauncher().start(job_in(tmp_path, action="ignore SIGTERM"))
    started.append(gang)
    said(tmp_path)
    gang.cancel(0.1)

    assert gang.poll() not in (0, None)


def test_cancel_lets_every_rank_save_however_many_ask(tmp_path: Path, started: list[LocalGang]) -> None:
    """torchrun bears a second SIGTERM; at a third one it would break off, and its ranks with it."""
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="sleep", starts_a_process=True))
    started.append(gang)
    pids = pids_of(tmp_path, ranks=2)
    threads = [threading.Thread(target=gang.cancel, args=(120,)) for _ in range(3)]
    threads[0].start()
    wait_until(lambda: all((tmp_path / f"saving{rank}").exists() for rank in range(2)))
    for thread in threads[1:]:
        thread.start()
        thread.join(1.5)
    (tmp_path / "go on").touch()
    for thread in threads:
        thread.join()

    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert gang.poll() == 143
    assert alive([gang.pid, *pids]) == []


def test_a_rank_that_ignores_sigterm_is_killed_with_all_that_it_started(
    tmp_path: Path, started: list[LocalGang], caplog: pytest.LogCaptureFixture
) -> None:
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="ignore SIGTERM", starts_a_process=True))
    started.append(gang)
    pids = pids_of(tmp_path, ranks=2)
    with caplog.at_level(logging.WARNING):
        gang.cancel(0.5)

    assert alive([gang.pid, *pids]) == []
    assert "did not end within" in caplog.text
    assert all(f"killing pid {rank['pids'][0]}" in caplog.text for rank in said(tmp_path, ranks=2))


def test_ranks_end_when_their_agent_is_killed(tmp_path: Path, started: list[LocalGang]) -> None:
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="ignore SIGTERM"))
    started.append(gang)
    pids = pids_of(tmp_path, ranks=2)
    os.kill(gang.pid, signal.SIGKILL)

    wait_until(lambda: alive(pids) == [])
    assert ended(gang) == -signal.SIGKILL


def test_ranks_that_lost_their_agent_and_cannot_look_are_found_and_killed(
    tmp_path: Path, started: list[LocalGang]
) -> None:
    """Such as one that hangs in a driver: its guard has no turn, and its parent is now somebody else."""
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="ignore SIGTERM", guarded=False))
    started.append(gang)
    pids = pids_of(tmp_path, ranks=2)
    with Gangs().running(gang):
        os.kill(gang.pid, signal.SIGKILL)
        ended(gang)
        assert alive(pids) == pids

    assert alive(pids) == []


def test_agent_and_ranks_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    with killed_after("-m", "tests.launch.starter", "gang", str(tmp_path)):
        ranks = pids_of(tmp_path, ranks=2)
        agent = int(said(tmp_path)[0]["environment"]["TUNELINE_PARENT_PID"])
        assert alive([agent, *ranks]) == [agent, *ranks]

    wait_until(lambda: alive([agent, *ranks]) == [])


def test_a_machine_that_refuses_to_start_processes_lacks_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    with pytest.raises(ResourceError, match="cannot be started"):
        LocalLauncher().start(job_in(tmp_path, action="end"))
