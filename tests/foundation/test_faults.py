"""A fault acts where, when and as often as it was asked to, and nowhere without being asked."""

from __future__ import annotations

import ast
import errno
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tasks
from tasks.foundation import faults
from tasks.foundation.errors import ConfigError
from tasks.foundation.faults import ONCE, SITES, VARIABLE, arm, poisoned, reach
from tasks.launch.environment import rank_environment
from tasks.launch.protocol import GangJob

Ask = Callable[..., None]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Sets the environment as a test's starter would, and reads it."""

    def asking(fault: str, **environment: str) -> None:
        for name, value in {VARIABLE: fault, **environment}.items():
            monkeypatch.setenv(name, value)
        arm()

    yield asking
    monkeypatch.undo()
    arm()


def passages(site: str, count: int) -> list[int]:
    """The passages, from 1, at which something was raised."""
    acted = []
    for passage in range(1, count + 1):
        try:
            reach(site)
        except RuntimeError:
            acted.append(passage)
    return acted


def test_nothing_happens_without_a_fault() -> None:
    for site in SITES:
        reach(site)
        assert not poisoned(site)


def test_only_the_asked_passage_of_the_asked_site_acts(ask: Ask) -> None:
    ask("train.step:3:error")
    assert passages("train.batch", 5) == []
    assert passages("train.step", 5) == [3]
    ask("")
    assert passages("train.step", 5) == []


def test_a_rank_acts_alone(ask: Ask) -> None:
    ask("train.step:1:error:1", RANK="0")
    assert passages("train.step", 2) == []
    ask("train.step:1:error:1", RANK="1")
    assert passages("train.step", 2) == [1]


def test_once_for_all_processes_the_first_one_leaves_the_mark(ask: Ask, tmp_path: Path) -> None:
    ask("train.step:1:error", TUNELINE_FAULT_ONCE=str(tmp_path / "mark"))
    assert passages("train.step", 1) == [1]
    arm()  # what a restarted process does
    assert passages("train.step", 3) == []
    assert (tmp_path / "mark").read_text() == f"train.step error pid {os.getpid()}\n"


def test_a_value_is_poisoned_at_its_passage_and_passing_the_site_does_not_count(ask: Ask) -> None:
    ask("train.step:2:nan")
    seen = []
    for _ in range(3):
        reach("train.step")
        seen.append(poisoned("train.step"))
    assert seen == [False, True, False]


def test_a_full_disk_and_a_full_memory_are_raised_as_the_system_raises_them(ask: Ask) -> None:
    ask("artifact.file:1:enospc")
    with pytest.raises(OSError) as caught:
        reach("artifact.file")
    assert caught.value.errno == errno.ENOSPC
    ask("train.batch:1:oom")
    with pytest.raises(MemoryError):
        reach("train.batch")


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("term", -signal.SIGTERM)])
def test_signals_reach_the_process_itself(action: str, code: int) -> None:
    def pass_the_site() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ[VARIABLE] = f"merge.shard:1:{action}"
        arm()
        reach("merge.shard")

    process = multiprocessing.get_context("fork").Process(target=pass_the_site)
    process.start()
    process.join()
    assert process.exitcode == code


@pytest.mark.parametrize(
    "text", ["train.stp:1:kill", "train.step:x:kill", "train.step:1:explode", "train.step", "train.step:1:kill:one"]
)
def test_a_mistake_is_one_line_that_says_what_there_is(ask: Ask, text: str) -> None:
    with pytest.raises(ConfigError, match="TUNELINE_FAULT") as caught:
        ask(text)
    assert caught.value.exit_code == 10
    assert "train.step" in caught.value.allowed and "enospc" in caught.value.allowed


def test_ranks_inherit_the_fault_and_its_mark(tmp_path: Path) -> None:
    job = GangJob(module="m", request=tmp_path / "r.json", log=tmp_path / "log.txt")
    asked = {VARIABLE: "train.step:1:kill", ONCE: str(tmp_path / "mark")}
    assert asked.items() <= rank_environment(asked, job).items()


def test_the_sites_are_those_that_the_sources_pass() -> None:
    sources = Path(str(tasks.__file__)).parent.rglob("*.py")
    passed = set(itertools.chain.from_iterable(map(_sites_in, sources)))
    assert passed == set(SITES)


def _sites_in(source: Path) -> Iterator[str]:
    """The literal arguments of `reach` and `poisoned`; `{noun}` stands for those that share a line."""
    if source == Path(faults.__file__):
        return
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("reach", "poisoned"):
            (site,) = node.args
            if isinstance(site, ast.Constant):
                yield str(site.value)
            else:
                pattern = ast.unparse(site).strip("f'")
                yield from (pattern.replace("{noun}", noun) for noun in ("artifact", "checkpoint"))
