"""What is told of a rank that broke off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.launch.failure import NAME, FailedRank, forget_failed_rank, read_failed_rank, write_failed_rank


def failed(exit_code: int = 1, at: float = 0.0) -> FailedRank:
    return FailedRank(rank=3, host="b", pid=12, exit_code=exit_code, at=at)


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "was killed by SIGKILL"), (20, "ended with exit code 20"), (-99, "was killed by signal 99")],
)
def test_a_person_can_read_how_it_ended(code: int, words: str) -> None:
    assert str(failed(code)) == f"rank 3 on host b {words}"


def test_the_first_of_several_nodes_stands_whichever_wrote_last(tmp_path: Path) -> None:
    for at in (2.0, 1.0, 3.0):
        write_failed_rank(tmp_path, failed(at=at))

    assert read_failed_rank(tmp_path) == failed(at=1.0)


def test_nothing_is_told_where_nothing_or_only_damage_is_written(tmp_path: Path) -> None:
    assert read_failed_rank(tmp_path) is None
    (tmp_path / NAME).write_text('{"rank": ')
    assert read_failed_rank(tmp_path) is None

    write_failed_rank(tmp_path, failed())
    assert read_failed_rank(tmp_path) == failed()
    forget_failed_rank(tmp_path)
    assert read_failed_rank(tmp_path) is None
