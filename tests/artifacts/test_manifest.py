"""A folder without a valid manifest does not exist."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import MANIFEST, describe, read, seal, verify, write_durably
from tasks.foundation.errors import IntegrityError
from tests.artifacts.worlds import build, fork

Damage = Callable[[Path], object]

DAMAGES: dict[str, Damage] = {
    "a.txt is missing": lambda folder: (folder / "a.txt").unlink(),
    "a.txt has 4 bytes, not 5": lambda folder: (folder / "a.txt").write_text("firs"),
    "deep/b.txt has another sha256": lambda folder: (folder / "deep/b.txt").write_text("Second"),
    "c.txt is not in the manifest": lambda folder: (folder / "c.txt").touch(),
    "deep/manifest.json is not in the manifest": lambda folder: (folder / "deep" / MANIFEST).touch(),
    "no valid manifest.json": lambda folder: (folder / MANIFEST).write_text("{"),
}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed"
    folder.mkdir()
    build(folder)
    seal(folder, kind="train", key="k")
    return folder


def test_a_sealed_folder_verifies_and_lists_every_file_in_order(sealed: Path) -> None:
    manifest = verify(sealed)

    assert [entry.path for entry in manifest.files] == ["a.txt", "deep/b.txt"]
    assert (manifest.kind, manifest.key) == ("train", "k")
    assert manifest == read(sealed) == describe(sealed, kind="train", key="k")


def test_the_digest_is_that_of_the_content_alone(sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    build(other)
    os.utime(other / "a.txt", (0, 0))
    again = seal(other, kind="merge", key="another")
    (other / "a.txt").rename(other / "c.txt")

    assert again.digest == verify(sealed).digest
    assert describe(other, kind="merge", key="another").digest != again.digest


@pytest.mark.parametrize("message", DAMAGES)
def test_damage_is_named(sealed: Path, message: str) -> None:
    DAMAGES[message](sealed)

    with pytest.raises(IntegrityError, match=message) as raised:
        verify(sealed)
    assert raised.value.where == str(sealed)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", "old")
    write_durably(tmp_path / "a", "new é")

    assert (tmp_path / "a").read_text(encoding="utf-8") == "new é"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_threads_that_write_the_same_file_at_once_do_not_meet(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    gate = threading.Barrier(4)

    def write(number: int) -> None:
        gate.wait()
        try:
            for _ in range(25):
                write_durably(tmp_path / "a", str(number) * 1000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(set((tmp_path / "a").read_text())) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_told_with_the_file_and_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", "old")

    def write_too_much() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match="File too large") as caught:
            write_durably(tmp_path / "a", "x" * 1000)
        assert caught.value.filename == str(tmp_path / "a")

    process = fork(write_too_much)
    process.join()

    assert process.exitcode == 0
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
