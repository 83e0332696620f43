"""Of two attempts at one folder only the newest writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import CancelledRunError
from tasks.models.values import BaseModel
from tasks.training.checkpoints import Checkpoints
from tasks.training.fence import Fence, new_attempt
from tests.training.ranks import run_ranks
from tests.training.worlds import LORA, loss_series, request_in, toy_cell


def test_an_attempt_may_write_until_another_one_begins(tmp_path: Path) -> None:
    fence = Fence(tmp_path, new_attempt(tmp_path), {})
    fence.check()
    new_attempt(tmp_path)
    with pytest.raises(CancelledRunError, match="another attempt has begun"):
        fence.check()


def test_a_job_that_a_scheduler_started_again_takes_over_and_never_back(tmp_path: Path) -> None:
    attempt = new_attempt(tmp_path)
    first = Fence(tmp_path, attempt, {"SLURM_JOB_ID": "7"})
    second = Fence(tmp_path, attempt, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})
    first.take_up()
    first.check()
    second.take_up()
    second.check()
    with pytest.raises(CancelledRunError):
        first.check()
    with pytest.raises(CancelledRunError):
        first.take_up()
    second.check()


def test_a_rank_of_an_older_attempt_that_starts_late_does_not_take_over(tmp_path: Path) -> None:
    late = Fence(tmp_path, new_attempt(tmp_path), {})
    newest = Fence(tmp_path, new_attempt(tmp_path), {})
    with pytest.raises(CancelledRunError):
        late.take_up()
    newest.check()


def test_a_request_without_an_attempt_is_not_fenced(tmp_path: Path) -> None:
    fence = Fence(tmp_path, "", {})
    fence.take_up()
    fence.check()
    assert not (tmp_path / "attempt").exists()


def test_an_attempt_that_is_over_commits_nothing_and_writes_no_metrics(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    fenced = request.model_copy(update={"attempt": new_attempt(request.work)})
    commit = Checkpoints.commit

    def overtaken(self: Checkpoints, step: int) -> Path:
        if step == 4:
            new_attempt(request.work)
        return commit(self, step)

    monkeypatch.setattr(Checkpoints, "commit", overtaken)
    assert run_ranks(fenced) == [143]
    assert Checkpoints(request.work / "checkpoints", request.identity).steps() == [2]
    assert [step for step, _ in loss_series(request)] == [1, 2, 3, 4]
