"""Which commit a record is of."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.records import commit_here


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_changed_source_marks_the_commit_and_a_new_record_does_not(tmp_path: Path) -> None:
    benchmarks = tmp_path / "benchmarks"
    (benchmarks / "results").mkdir(parents=True)
    source = tmp_path / "source.py"
    source.touch()
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")

    (benchmarks / "results" / "soak.json").touch()
    assert len(commit_here(benchmarks)) == 12
    source.write_text("changed", encoding="utf-8")
    assert commit_here(benchmarks).endswith("+changes")
