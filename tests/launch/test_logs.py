"""A log that grows beyond its limit is emptied; what it held last is kept beside it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.launch.logs import cap, earlier


def test_a_small_log_is_left_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    cap(log, 10)
    log.write_bytes(b"0123456789")
    cap(log, 10)
    assert log.read_bytes() == b"0123456789"
    assert not earlier(log).exists()


def test_of_a_large_log_the_end_is_kept_and_its_writers_go_on(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"first line\n" * 5 + b"\xff\xfe last\n")
        cap(log, 20)
        assert earlier(log).read_bytes() == b"e\n\xff\xfe last\n"
        writer.write(b"next\n")
    assert log.read_bytes() == b"next\n"


def test_the_kept_part_is_replaced_by_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    for letter in (b"a", b"b"):
        log.write_bytes(letter * 30)
        cap(log, 20)
    assert earlier(log).read_bytes() == b"b" * 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "log.txt.1"]


def write_while_moved(log: Path, words: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that comes between the copy of a log's end and its emptying."""
    replace = Path.replace

    def and_write(staged: Path, target: Path) -> Path:
        with log.open("ab") as writer:
            writer.write(words)
        return replace(staged, target)

    monkeypatch.setattr(Path, "replace", and_write)


def test_what_is_written_while_the_end_is_moved_is_moved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"a" * 31)
    write_while_moved(log, b"why it died", monkeypatch)
    cap(log, 30)
    assert (earlier(log).read_bytes(), log.read_bytes()) == (b"a" * 15 + b"why it died", b"")


def test_in_a_storm_the_end_of_what_came_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"a" * 31)
    write_while_moved(log, b"b" * 40 + b"why it died", monkeypatch)
    cap(log, 30)
    assert (earlier(log).read_bytes(), log.read_bytes()) == (b"bbbb" + b"why it died", b"")


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a full disk: the system refuses to write more (EFBIG; Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_nothing_can_be_kept_the_log_is_emptied_all_the_same_and_nobody_fails(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"a" * 30)
    with no_file_beyond(5):
        cap(log, 20)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("log.txt", b"")]
