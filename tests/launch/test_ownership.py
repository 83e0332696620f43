"""A token names one process and never another, however long that one is dead."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tasks.launch.ownership import OWNER, claim, owner_named, this_process


def test_a_token_is_read_back_as_it_was_written() -> None:
    assert owner_named(str(this_process())) == this_process()


@pytest.mark.parametrize("text", ["", "12", "12@3", "12@3@", "@3@host", "x@3@host", "-1@3@host"])
def test_what_is_no_token_names_nobody(text: str) -> None:
    assert owner_named(text) is None


def test_a_process_lives_until_it_has_ended_even_where_nobody_has_waited_for_it() -> None:
    told = "from tasks.launch.ownership import this_process; print(this_process(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", told], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        owner = owner_named(process.stdout.readline().decode().strip())
        assert owner and owner.pid == process.pid and owner.is_here and owner.lives

        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
        assert not owner.lives


def test_a_process_that_got_the_pid_of_a_dead_one_is_not_taken_for_it() -> None:
    earlier = this_process().model_copy(update={"start": "1"})

    assert this_process().lives and not earlier.lives


def test_what_other_hosts_say_is_told_apart() -> None:
    assert this_process().is_here
    assert not this_process().model_copy(update={"host": "elsewhere"}).is_here


def test_a_claim_is_inherited_by_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWNER, "of somebody else")
    owner = claim()
    heard = subprocess.run([sys.executable, "-c", f"import os; print(os.environ['{OWNER}'])"], capture_output=True)

    assert heard.stdout.decode().strip() == str(owner)
