"""A device is held by one run of the machine at a time, and by nobody when its holder is dead."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.foundation.errors import CancelledRunError, ResourceError
from tasks.launch.launchers.local import LocalLauncher
from tasks.launch.locks import lock_folder, try_lock
from tasks.launch.slots import Slots, accelerators, held_devices, sharing, slots_for

HOLDER = """
import sys
from tasks.launch.launchers.local import LocalLauncher
from tasks.launch.slots import accelerators, slots_for

with slots_for(LocalLauncher(), accelerators(), 1).hold() as devices:
    print(*devices, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_LOCKS", str(tmp_path / "locks"))
    return tmp_path / "locks"


@contextmanager
def another_run(visible: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the first slot of these devices, until it is told to end."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER], env=environment, stdin=pipe, stdout=pipe, text=True) as run:
        assert run.stdout
        assert run.stdout.readline() == f"{visible.partition(',')[0]}\n"
        yield run
        run.kill()


def test_two_runs_of_one_machine_take_different_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "8,9")
    with another_run("8,9"), slots_for(LocalLauncher(), accelerators(), 1).hold() as devices:
        assert devices == held_devices() == ("9",)


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_a_run_waits_for_a_device_that_another_one_holds_until_that_one_ends(end: str) -> None:
    said: list[str] = []
    got = threading.Event()

    def work() -> None:
        with Slots((("8",),)).hold(said.append):
            got.set()

    thread = threading.Thread(target=work)
    with another_run("8") as run:
        thread.start()
        assert not got.wait(2)
        assert run.stdin
        run.stdin.close() if end == "in order" else run.send_signal(signal.SIGKILL)
        assert got.wait(120)
        thread.join()
    assert set(said) == {"another run on this machine holds accelerator 8"}


def test_of_a_group_all_devices_are_held_or_none() -> None:
    with another_run("9"):
        assert try_lock(("8", "9")) is None
        alone = try_lock(("8",))
        assert alone is not None
        alone.close()


def test_who_waits_for_a_device_when_the_flow_ends_is_sent_away() -> None:
    slots, caught = Slots((("8",),)), []

    def work() -> None:
        try:
            with slots.hold():
                pass
        except CancelledRunError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    with another_run("8"):
        with sharing(slots):
            thread.start()
            thread.join(1)
        thread.join(120)
    assert len(caught) == 1


def test_places_of_a_cpu_need_no_lock(folder: Path) -> None:
    with Slots(((),)).hold():
        assert not folder.exists()


def test_a_lock_may_be_taken_by_every_user(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        stack = try_lock(("8",))
    finally:
        os.umask(before)
    assert stack is not None
    stack.close()
    (file,) = folder.iterdir()
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o1777, 0o644)


def test_a_link_or_a_pipe_in_the_place_of_a_lock_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "tuneline-accelerator-8.lock").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "tuneline-accelerator-9.lock")
    for device in ("8", "9"):
        with pytest.raises(ResourceError, match="the lock of an accelerator"):
            try_lock((device,))
    assert not (tmp_path / "elsewhere").exists()


def test_the_place_is_the_same_for_all_users_unless_it_is_named() -> None:
    assert lock_folder({"TUNELINE_LOCKS": "/srv/locks", "TMPDIR": "/home/ann"}) == Path("/srv/locks")
    assert lock_folder({"TMPDIR": "/home/ann"}) in (Path("/run/lock"), Path("/tmp"))
