from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.registry import code_state


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of its own with one committed source file."""
    (tmp_path / "project" / "tasks").mkdir(parents=True)
    (tmp_path / "project" / "tasks" / "a.py").write_text("one = 1\n")
    git(tmp_path / "project", "init")
    git(tmp_path / "project", "add", ".")
    git(tmp_path / "project", "commit", "-m", "first")
    return tmp_path / "project"


def test_a_clean_checkout_is_named_by_its_commit(checkout: Path) -> None:
    state = code_state(checkout)
    assert len(state.commit) == 40
    assert not state.dirty
    assert state.label == state.commit


def test_a_changed_file_and_a_new_one_make_it_dirty_each_in_its_own_way(checkout: Path) -> None:
    clean = code_state(checkout)
    (checkout / "tasks" / "a.py").write_text("one = 2\n")
    changed = code_state(checkout)
    (checkout / "tasks" / "b.py").write_text("two = 2\n")
    added = code_state(checkout)
    assert [changed.dirty, added.dirty] == [True, True]
    assert changed.commit == clean.commit
    assert len({clean.diff_digest, changed.diff_digest, added.diff_digest}) == 3
    assert changed.label == f"{clean.commit}-dirty-{changed.diff_digest[:12]}"
    assert code_state(checkout) == added, "the same state has the same name"


def test_files_outside_the_source_do_not_count(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("mine")
    assert not code_state(checkout).dirty


def test_a_package_inside_somebody_elses_repository_is_named_by_itself(checkout: Path) -> None:
    (checkout / "venv" / "site-packages").mkdir(parents=True)
    state = code_state(checkout / "venv" / "site-packages")
    assert state.commit == ""
    assert state.label == f"{state.version}+{state.code_digest[:12]}"


def test_variables_of_a_git_hook_do_not_lead_to_another_repository(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = code_state(checkout)
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert code_state(checkout) == expected


def test_without_git_the_code_digest_is_left(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_state(checkout).commit == ""
