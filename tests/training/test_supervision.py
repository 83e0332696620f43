"""Why a gang ended, told from what it left behind; and one run at a time in a work folder."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import (
    CancelledRunError,
    DivergenceError,
    ErrorRecord,
    IntegrityError,
    RankError,
    TunelineError,
)
from tasks.launch import GangJob
from tasks.launch.failure import FailedRank, write_failed_rank
from tasks.launch.kills import kills_so_far
from tasks.models.values import BaseModel
from tasks.train import train
from tasks.training.checkpoints import Checkpoints
from tasks.training.failing import lost_peer, read_failure, write_failure
from tasks.training.supervision import cause_of
from tasks.training.values import TrainRequest
from tests.launch.worlds import wait_until
from tests.training.gangs import ForkedGang, ForkLauncher, run_gang
from tests.training.ranks import fork_ranks
from tests.training.worlds import LORA, request_in, toy_cell
from tests.workspace.worlds import arrived, place_in

DIVERGED = ErrorRecord.of(DivergenceError("it became nan"))
UNFORESEEN = ErrorRecord.of(ZeroDivisionError("oh"))
LOST = ErrorRecord.of(RankError("another rank is gone"))
CANCELLED = ErrorRecord.of(CancelledRunError("stopped at step 3"))


@pytest.fixture
def request_here(base: BaseModel, tokens: Artifact, tmp_path: Path) -> TrainRequest:
    return request_in(tmp_path, toy_cell(base, tokens, LORA))


@pytest.mark.parametrize("consequence", [UNFORESEEN, LOST, CANCELLED], ids=lambda record: record.cause)
def test_a_cause_stands_and_a_consequence_gives_way_whichever_came_first(
    tmp_path: Path, consequence: ErrorRecord
) -> None:
    for name, records in (("cause first", [DIVERGED, consequence]), ("cause last", [consequence, DIVERGED])):
        (tmp_path / name).mkdir()
        for record in records:
            write_failure(tmp_path / name, record)
        assert read_failure(tmp_path / name) == DIVERGED


def test_a_record_that_was_torn_is_none_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "failure.json").write_text('{"cause": "Diver')
    assert read_failure(tmp_path) is None
    write_failure(tmp_path, LOST)
    assert read_failure(tmp_path) == LOST


@pytest.mark.parametrize(
    ("said", "ended", "code", "cause", "words"),
    [
        (DIVERGED, -9, 137, DivergenceError, "it became nan"),
        (LOST, -9, 137, RankError, "rank 1 on host x was killed by SIGKILL"),
        (UNFORESEEN, -11, 139, RankError, "rank 1 on host x was killed by SIGSEGV"),
        (CANCELLED, -9, 137, RankError, "rank 1 on host x was killed by SIGKILL"),
        (UNFORESEEN, 1, 1, TunelineError, "ZeroDivisionError: oh"),
        (LOST, 7, 7, RankError, "rank 1 on host x ended with exit code 7"),
        (CANCELLED, 143, 143, CancelledRunError, "stopped at step 3"),
        (None, -15, 143, CancelledRunError, "the ranks were terminated"),
        (None, None, -15, CancelledRunError, "the ranks were terminated"),
        (None, None, 1, RankError, "the gang ended with 1"),
    ],
)
def test_the_first_death_is_the_cause_unless_a_rank_knows_better(
    request_here: TrainRequest,
    said: ErrorRecord | None,
    ended: int | None,
    code: int,
    cause: type[TunelineError],
    words: str,
) -> None:
    if said:
        write_failure(request_here.work, said)
    if ended is not None:
        failed = FailedRank(rank=1, host="x", pid=5, exit_code=ended, at=1.0)
        write_failed_rank(request_here.work, failed)
    error = cause_of(code, request_here, kills_so_far())
    assert type(error) is cause
    assert words in error.what


def test_what_gloo_says_of_a_peer_that_is_gone_is_known() -> None:
    said = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3117"
    assert isinstance(lost_peer(RuntimeError(said)), RankError)
    assert lost_peer(RuntimeError("another thing")) is None


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read: No such file"), ('{"cell"', "no request of this")])
def test_a_rank_that_cannot_read_its_request_says_on_which_host_and_what_to_do(
    tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "request.json"
    if text is not None:
        path.write_text(text)
    ranks = fork_ranks(path, 2)
    for rank in ranks:
        rank.join()

    assert [rank.exitcode for rank in ranks] == [IntegrityError.exit_code] * 2
    said = read_failure(tmp_path)
    assert said and words in said.what and said.where == f"{path} on {socket.gethostname()}"
    assert "every node" in said.fix.lower()


def test_the_signal_that_a_peers_end_brings_does_not_take_the_reason_of_a_failing_rank_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(work: Path, record: ErrorRecord) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write_failure(work, record)

    monkeypatch.setattr("tasks.training.worker.write_failure", interrupted)
    (rank,) = fork_ranks(tmp_path / "request.json", 1)
    rank.join()

    said = read_failure(tmp_path)
    assert rank.exitcode == IntegrityError.exit_code and said and said.exit_code == IntegrityError.exit_code


def test_row_42_a_run_whose_holder_was_killed_is_taken_over(request_here: TrainRequest) -> None:
    hanging = ForkLauncher(environment={"TUNELINE_FAULT": "train.step:3:hang"})
    holder = get_context("fork").Process(target=partial(run_gang, request_here, hanging))
    holder.start()
    wait_until(lambda: Checkpoints(request_here.work / "checkpoints", {}).steps() == [2])
    os.kill(int(holder.pid or 0), signal.SIGKILL)
    holder.join()
    error, _ = run_gang(request_here, ForkLauncher())
    assert error is None
    assert (request_here.output / "result.json").exists()


class Patient(ForkLauncher):
    """Says that a gang of an earlier pipeline process is still there."""

    def is_running(self, job: GangJob) -> bool:
        return True


def test_a_gang_that_is_still_there_keeps_its_attempt_and_another_request_begins_a_new_one(
    request_here: TrainRequest,
) -> None:
    def attempt_of(request: TrainRequest) -> str:
        error, _ = run_gang(request, Patient())
        assert error is None
        return (request.work / "attempt").read_text(encoding="utf-8")

    first = attempt_of(request_here)
    assert attempt_of(request_here) == first
    found = request_here.cell.tokens.model_copy(update={"cached": True, "made_by": "an earlier run"})
    again = request_here.cell.model_copy(update={"tokens": found})
    assert attempt_of(request_here.model_copy(update={"cell": again})) == first
    relabelled = request_here.cell.model_copy(update={"label": "another"})
    assert attempt_of(request_here.model_copy(update={"cell": relabelled})) != first


class LastWords(ForkedGang):
    """A gang that writes into its log and is gone."""

    def __init__(self, log: Path) -> None:
        super().__init__([])
        with log.open("ab") as file:
            file.write(b"it goes on\nIllegal instruction \xff")

    def poll(self) -> int | None:
        return 1


class Dying(ForkLauncher):
    def start(self, job: GangJob) -> ForkedGang:
        return LastWords(job.log)


def test_what_dying_ranks_said_is_passed_on_once_to_the_last_word(request_here: TrainRequest) -> None:
    request_here.work.mkdir(parents=True, exist_ok=True)
    (request_here.work / "log.txt").write_text("an earlier attempt\n", encoding="utf-8")
    error, seen = run_gang(request_here, Dying(max_restarts=1))
    assert isinstance(error, RankError)
    assert seen.output == ["it goes on", "Illegal instruction \N{REPLACEMENT CHARACTER}"] * 2


def test_a_start_after_a_death_stands_in_the_cells_run(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    once = {"TUNELINE_FAULT": "train.step:3:kill", "TUNELINE_FAULT_ONCE": str(tmp_path / "once")}
    place = place_in(tmp_path / "runs")
    train.fn(toy_cell(base, tokens, LORA), ForkLauncher(environment=once), place)

    tags = arrived(place).tags
    assert (tags["tuneline.restarts"], tags["tuneline.resumed_from_step"]) == ("1", "2")
    assert "a rank died" in tags["tuneline.restart_reason"]
