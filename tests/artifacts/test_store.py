"""Made once, found again, rebuilt when damaged; killed at any moment, nothing half-made is taken for whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import Artifact, ArtifactStore, verify
from tasks.foundation.errors import CancelledRunError, DataError, ResourceError
from tests.artifacts.worlds import FILES, KEY, build, contents, die_at_line, exit_code, fork, make

Damage = Callable[[Path], object]


def leftovers(root: Path) -> set[str]:
    """What lies beside the artifact, but for the lock."""
    return {path.name for path in (root / "train").iterdir()} - {KEY, f".{KEY}.lock"}


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def test_what_was_built_lies_under_step_and_key_with_a_manifest(tmp_path: Path) -> None:
    artifact = make(tmp_path)

    assert artifact.path == tmp_path / "train" / KEY
    assert contents(artifact.path) == FILES
    assert verify(artifact.path).digest == artifact.digest
    assert not artifact.cached


def test_what_is_there_is_not_built_again_and_says_who_made_it(tmp_path: Path) -> None:
    first = make(tmp_path)

    again = ArtifactStore(tmp_path).make("train", KEY, lambda folder: pytest.fail("built again"), made_by="run 2")

    assert again == first.model_copy(update={"cached": True})
    assert again.made_by == "run 1"
    assert leftovers(tmp_path) == {f"{KEY}.made_by"}


def test_who_made_it_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    other = ArtifactStore(tmp_path / "other").make("train", KEY, build, made_by="somebody else")

    assert other.digest == make(tmp_path).digest


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    assert ArtifactStore(tmp_path).find("train", KEY) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.txt").unlink(),
        lambda folder: (folder / "a.txt").write_text("fir5t"),
        lambda folder: (folder / "a.txt").write_text("fir"),
        lambda folder: (folder / "extra").touch(),
        lambda folder: (folder / "manifest.json").unlink(),
    ],
    ids=["missing", "flipped", "truncated", "extra", "no manifest"],
)
def test_a_damaged_artifact_is_set_aside_with_a_warning_and_made_again(
    tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    before = make(tmp_path)
    damage(before.path)
    after = make(tmp_path)

    assert after == before
    assert contents(after.path) == FILES
    assert "set aside" in caplog.text and KEY in caplog.text
    assert leftovers(tmp_path) == {f"{KEY}.made_by", f".{KEY}.damaged.{os.getpid()}"}


def test_row_22_any_flipped_bit_of_any_byte_is_noticed(tmp_path: Path) -> None:
    folder = make(tmp_path).path
    store = ArtifactStore(tmp_path)
    saved = tmp_path / "saved"
    shutil.copytree(folder, saved)
    for name in [*FILES, "manifest.json"]:
        data = (saved / name).read_bytes()
        for place in range(len(data)):
            flipped = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
            (folder / name).write_bytes(flipped)
            assert store.find("train", KEY) is None, (name, place)
            shutil.copytree(saved, folder)


def test_a_valid_folder_in_anothers_place_is_not_taken_for_it(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    other = store.make("train", "o" * 64, build)
    shutil.copytree(other.path, store.folder("train", KEY))
    shutil.copytree(other.path, store.folder("merge", "o" * 64))

    assert store.find("train", KEY) is None
    assert store.find("merge", "o" * 64) is None
    assert store.find("train", "o" * 64) is not None


def test_killed_before_any_line_the_artifact_is_absent_or_whole_and_made_again_the_same(tmp_path: Path) -> None:
    """Every write, fsync and rename has a line of ours before and after it."""
    expected = make(tmp_path / "undisturbed")
    root = tmp_path / "root"
    kills, found = 0, 0

    def make_and_die() -> None:
        die_at_line(kills + 1)
        make(root)

    while (code := exit_code(fork(make_and_die))) != 0:
        assert code == -9
        kills += 1
        folder = root / "train" / KEY
        if folder.exists():
            assert verify(folder).digest == expected.digest
        again = make(root)
        found += again.cached
        assert (again.digest, again.made_by) == (expected.digest, "run 1")
        assert leftovers(root) == {f"{KEY}.made_by"}
        shutil.rmtree(root)

    assert kills > 100
    assert 0 < found < kills


def test_row_42_ten_processes_that_ask_at_once_build_once(tmp_path: Path) -> None:
    gate = multiprocessing.get_context("fork").Barrier(10)

    def slow_build(folder: Path) -> None:
        with (tmp_path / "builds").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        build(folder)

    def ask(number: int) -> None:
        gate.wait()
        artifact = make(tmp_path / "root", slow_build)
        (tmp_path / f"{number}.json").write_text(artifact.model_dump_json())

    processes = [fork(lambda number=number: ask(number)) for number in range(10)]  # type: ignore[misc]
    codes = [exit_code(process) for process in processes]
    artifacts = [Artifact.model_validate_json(path.read_text()) for path in tmp_path.glob("*.json")]

    assert codes == [0] * 10
    assert (tmp_path / "builds").read_text() == "x"
    assert sorted(artifact.cached for artifact in artifacts) == [False] + [True] * 9
    assert len({artifact.digest for artifact in artifacts}) == 1


def hang_in_build(root: Path, begun: Path) -> None:
    def hang(folder: Path) -> None:
        (folder / "half").touch()
        begun.touch()
        time.sleep(600)

    make(root, hang)


def test_the_lock_and_the_leavings_of_a_killed_builder_are_taken_over(tmp_path: Path) -> None:
    process = fork(lambda: hang_in_build(tmp_path / "root", tmp_path / "begun"))
    wait_for(tmp_path / "begun")
    process.kill()
    process.join()

    artifact = make(tmp_path / "root")

    assert contents(artifact.path) == FILES
    assert not artifact.cached


def test_who_waits_for_another_process_is_asked_whether_it_still_wants_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def give_up() -> None:
        raise CancelledRunError("cancelled")

    process = fork(lambda: hang_in_build(tmp_path / "root", tmp_path / "begun"))
    wait_for(tmp_path / "begun")
    try:
        with pytest.raises(CancelledRunError):
            ArtifactStore(tmp_path / "root", while_waiting=give_up).make("train", KEY, build)
        assert "waiting for it" in caplog.text
    finally:
        process.kill()
        process.join()


def test_a_failing_build_leaves_nothing_and_its_error_as_it_was(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        build(folder)
        raise DataError("bad row")

    with pytest.raises(DataError, match="bad row"):
        make(tmp_path, fail)
    assert leftovers(tmp_path) == set()
    assert not (tmp_path / "train" / KEY).exists()
    assert make(tmp_path).cached is False


@pytest.mark.parametrize("limit", [20, 200, 600], ids=["in the build", "in the manifest", "beside the folder"])
def test_a_disk_that_is_full_at_any_moment_is_a_lack_of_resources_and_leaves_nothing(
    tmp_path: Path, limit: int
) -> None:
    """The system refuses to write beyond a limit, as it does on a full disk; a small tmpfs would need root."""

    def build_50_bytes(folder: Path) -> None:
        (folder / "a").write_text("x" * 50)

    def make_with_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        ArtifactStore(tmp_path).make("train", KEY, build_50_bytes, made_by="r" * 1000)

    assert exit_code(fork(make_with_limit)) == ResourceError.exit_code
    assert leftovers(tmp_path) == set()
    assert not (tmp_path / "train" / KEY).exists()
    assert ArtifactStore(tmp_path).make("train", KEY, build_50_bytes).cached is False


def test_a_manifest_is_plain_json_with_size_and_sha256_of_each_file(tmp_path: Path) -> None:
    manifest = json.loads((make(tmp_path).path / "manifest.json").read_text())

    assert manifest["files"][0] == {
        "path": "a.txt",
        "size": 5,
        "sha256": "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e",
    }
