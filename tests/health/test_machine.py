"""Findings about the machine, with programs and figures handed in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.health.machine import accelerator_check, cores_check, disk_check, memory_check, run_program, writable_check


def test_devices_are_listed_as_nvidia_smi_names_them() -> None:
    check = accelerator_check(lambda command: "Accelerator A, 80000 MiB\nAccelerator A, 80000 MiB\n")
    assert check.ok
    assert check.detail == "Accelerator A, 80000 MiB; Accelerator A, 80000 MiB"


def test_no_accelerator_is_fine_and_says_so() -> None:
    check = accelerator_check(lambda command: run_program(["no-such-program-here"]))
    assert check.ok
    assert "CPU" in check.detail


def test_a_driver_that_does_not_answer_is_a_finding() -> None:
    def broken(command: Sequence[str]) -> str:
        raise subprocess.CalledProcessError(9, list(command))

    check = accelerator_check(broken)
    assert not check.ok
    assert "driver" in check.detail


def test_little_memory_and_little_disk_are_findings(tmp_path: Path) -> None:
    assert memory_check(available=64 << 30).ok
    assert not memory_check(available=1 << 30).ok
    assert disk_check(tmp_path, free=64 << 30).ok
    short = disk_check(tmp_path / "not" / "yet", free=1 << 30)
    assert not short.ok
    assert "TUNELINE_RUNS" in short.fix


def test_usable_cores_are_counted() -> None:
    assert int(cores_check().detail.split()[0]) >= 1


def test_a_runs_folder_that_does_not_exist_yet_is_judged_by_its_parent_and_nothing_is_made(tmp_path: Path) -> None:
    assert writable_check(tmp_path / "runs" / "deep").ok
    assert list(tmp_path.iterdir()) == []


def test_a_runs_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    check = writable_check(tmp_path / "runs" / "deep")
    assert not check.ok
    assert "TUNELINE_RUNS" in check.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert not writable_check(tmp_path).ok
