"""Pods of one Job as processes of this machine: they find each other's gangs in a shared folder and train together."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError
from tasks.launch import Layout
from tasks.launch.follow import Follower
from tasks.launch.follow import main as follow
from tasks.launch.invitations import EXCHANGE, POD_ADDRESS, POD_IP, Exchange, Invitation, meeting, variables
from tasks.launch.launchers.pods import PodsGang, PodsLauncher
from tasks.launch.protocol import GangJob
from tests.launch.worlds import alive, job_in, pids_of, said, wait_until

POD = {POD_IP: "127.0.0.1", POD_ADDRESS: "localhost"}


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder through which pods talk; this process is the first pod."""
    for name, value in {**POD, EXCHANGE: str(tmp_path / "pods")}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "pods"


@pytest.fixture
def follower(shared: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The second pod."""
    with (tmp_path / "follower.txt").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "tasks.launch.follow"], stderr=log)
    yield process
    process.kill()
    process.wait()


def two_pods(folder: Path, **asked: object) -> GangJob:
    return job_in(folder, **asked).model_copy(update={"layout": Layout(nodes=2)})


def invitation_in(folder: Path, gang: str = "g1", owner: str = "1@2@here") -> Invitation:
    return Invitation(id=gang, owner=owner, endpoint="first:1234", job=two_pods(folder, action="end"))


def test_agents_meet_at_explicit_addresses_over_the_interface_that_carries_them(tmp_path: Path) -> None:
    arguments = meeting(invitation_in(tmp_path), "127.0.0.1", is_host=False)
    assert {"--nnodes=2", "--rdzv-endpoint=first:1234", "--rdzv-id=g1", "--local-addr=127.0.0.1"} <= set(arguments)
    assert "--rdzv-conf=is_host=false,join_timeout=86400" in arguments, "a pending pod is waited for"
    assert variables("127.0.0.1") == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    assert variables("203.0.113.7") == {}


def test_an_invitation_stands_until_it_is_withdrawn(tmp_path: Path) -> None:
    exchange, invitation = Exchange(tmp_path / "pods"), invitation_in(tmp_path)
    exchange.invite(invitation)
    assert list(Exchange(tmp_path / "pods").invitations()) == [invitation]
    exchange.withdraw("g1")
    assert not exchange.stands("g1")
    assert list(exchange.invitations()) == []


def test_a_new_pipeline_withdraws_what_a_dead_one_left_and_keeps_its_own(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "pods")
    exchange.invite(invitation_in(tmp_path, "old", "1@1@gone"))
    exchange.invite(invitation_in(tmp_path, "a"))
    exchange.invite(invitation_in(tmp_path, "b"))
    assert [invitation.id for invitation in exchange.invitations()] == ["a", "b"]


def test_answers_to_gangs_that_are_over_are_cleared_away_and_no_others(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "pods")
    exchange.invite(invitation_in(tmp_path, "stands"))
    for gang, words in (
        ("over", ("joined", "failed", "ended")),
        ("ending", ("joined",)),
        ("stands", ("joined", "ended")),
    ):
        for word in words:
            exchange.say(gang, "demo-1", word)
    exchange.invite(invitation_in(tmp_path, "next"))
    left = {path.name for path in exchange.folder.glob("*.demo-1.*")}
    assert left == {"ending.demo-1.joined", "stands.demo-1.joined", "stands.demo-1.ended"}


def test_half_a_file_is_no_invitation(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "pods")
    (exchange.folder / "x.json").write_text("{")
    assert list(exchange.invitations()) == []


def test_pods_answer_under_their_own_names_and_are_asked_once(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "pods")
    for pod in ("demo-1", "demo-2"):
        exchange.say("g1", pod, "joined")
    exchange.say("g1", "demo-1", "ended")
    assert (exchange.joined("g1"), exchange.ended("g1")) == ({"demo-1", "demo-2"}, {"demo-1"})
    exchange.ask_for_stacks("g1")
    assert [exchange.wants_stacks("g1", "demo-2") for _ in range(2)] == [True, False]
    assert exchange.wants_stacks("g1", "demo-1")


def test_outside_of_such_a_job_the_launcher_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (EXCHANGE, POD_ADDRESS, POD_IP):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"Write a Job with `tuneline manifest`, or set distributed\.launcher"):
        PodsLauncher().start(two_pods(tmp_path, action="end"))
    assert follow() == 10


def test_a_gang_that_cannot_start_invites_nobody(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Exception, match="cannot be started"):
        PodsLauncher().start(two_pods(tmp_path / "job", action="end"))
    assert list(shared.glob("*.json")) == []


def started(job: GangJob) -> PodsGang:
    gang = PodsLauncher().start(job)
    assert gang.status() in ("waiting for 1 of 1 other pods", ""), "the other one may have joined already"
    return gang


@pytest.mark.system
def test_two_pods_run_one_gang_and_then_the_next_one_which_a_cancel_ends_on_both(
    follower: subprocess.Popen[bytes], shared: Path, tmp_path: Path
) -> None:
    first = started(two_pods(tmp_path / "a", action="end"))
    wait_until(lambda: first.poll() is not None)
    assert first.poll() == 0
    assert {rank["environment"]["WORLD_SIZE"] for rank in said(tmp_path / "a", ranks=2)} == {"2"}
    assert len(list((tmp_path / "a").glob("log*.txt"))) == 2, "a log for each pod"
    assert first.status() == ""

    second = started(two_pods(tmp_path / "b", action="wait"))
    pids = pids_of(tmp_path / "b", ranks=2)
    assert second.status() == ""
    (tmp_path / "b" / "go on").touch()
    second.cancel(60)
    assert alive(pids) == []
    assert {path.name for path in (tmp_path / "b").glob("saved*")} == {"saved0", "saved1"}, (
        "both were asked, not killed"
    )
    assert list(shared.glob("*.json")) == []
    assert follower.poll() is None, "it waits for the next one"


def test_a_gang_says_how_many_pods_it_waits_for(shared: Path, tmp_path: Path) -> None:
    exchange, invitation, here = Exchange(shared), invitation_in(tmp_path), ShareOfAGang()
    exchange.invite(invitation)
    gang = PodsGang(here, exchange, invitation)  # type: ignore[arg-type]
    assert gang.status() == "waiting for 1 of 1 other pods"
    exchange.say("g1", "demo-1", "joined")
    assert gang.status() == ""


@pytest.mark.parametrize(("action", "code"), [("fail", 32), ("none", None)])
def test_ranks_that_fail_in_another_pod_end_the_gang_although_those_here_would_wait_for_ever(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, code: int | None
) -> None:
    exchange, invitation, here, there = Exchange(shared), invitation_in(tmp_path), ShareOfAGang(), ShareOfAGang()
    monkeypatch.setattr("tasks.launch.follow.start_agent", lambda job, meeting, variables: there)
    exchange.invite(invitation)
    monkeypatch.setattr("tasks.launch.launchers.pods._BROKEN_SECONDS", 0)
    gang, pod = PodsGang(here, exchange, invitation), Follower(exchange, "demo-1", "127.0.0.1")  # type: ignore[arg-type]
    pod.look()
    if action == "fail":
        there.said.append("cancel")  # it has ended, and not with 0
    pod.look()
    assert gang.poll() == gang.poll() == code
    assert (here.said == ["cancel"], exchange.stands("g1")) == (code is not None, code is None)


def test_ranks_that_are_ended_since_nobody_wants_them_any_more_have_not_failed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Exchange(shared)
    monkeypatch.setattr("tasks.launch.follow.start_agent", lambda job, meeting, variables: ShareOfAGang())
    exchange.invite(invitation_in(tmp_path))
    pod = Follower(exchange, "demo-1", "127.0.0.1")
    pod.look()
    exchange.withdraw("g1")
    pod.look()
    assert (exchange.ended("g1"), exchange.failed("g1")) == ({"demo-1"}, set())


@pytest.mark.system
def test_a_follower_that_is_told_to_end_takes_its_ranks_with_it(
    follower: subprocess.Popen[bytes], shared: Path, tmp_path: Path
) -> None:
    gang = started(two_pods(tmp_path / "a", action="wait"))
    pids = pids_of(tmp_path / "a", ranks=2)
    (tmp_path / "a" / "go on").touch()
    follower.send_signal(signal.SIGTERM)
    assert follower.wait() == 143, "a pod that ends with 0 counts as done, and nobody would replace it"
    gang.cancel(60)
    assert alive(pids) == []


def test_a_follower_joins_no_gang_twice(shared: Path, tmp_path: Path) -> None:
    exchange = Exchange(shared)
    exchange.invite(invitation_in(tmp_path))
    joined: list[str] = []

    class Counting(Follower):
        def _join(self, invitation: Invitation) -> None:
            joined.append(invitation.id)
            self._done.add(invitation.id)

    pod = Counting(exchange, "demo-1", "127.0.0.1")
    for _ in range(3):
        pod.look()
    assert joined == ["g1"]


class ShareOfAGang:
    """What a follower asks of an agent that it started."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def poll(self) -> int | None:
        return 143 if "cancel" in self.said else None

    def dump_stacks(self) -> None:
        self.said.append("stacks")

    def cancel(self, grace_seconds: float) -> None:
        self.said.append("cancel")


def test_a_follower_passes_on_what_the_first_pod_wants_and_says_when_its_share_is_over(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, exchange = ShareOfAGang(), Exchange(shared)
    monkeypatch.setattr("tasks.launch.follow.start_agent", lambda job, meeting, variables: share)
    pod = Follower(exchange, "demo-1", "127.0.0.1")
    exchange.invite(invitation_in(tmp_path))
    pod.look()
    assert (share.said, exchange.joined("g1"), exchange.ended("g1")) == ([], {"demo-1"}, set())
    exchange.ask_for_stacks("g1")
    capped: list[Path] = []
    monkeypatch.setattr("tasks.launch.follow.cap", capped.append)
    pod.look()
    assert share.said == ["stacks"]
    assert capped == [tmp_path / "log-demo-1.txt"], "whatever its ranks print"
    exchange.withdraw("g1")
    pod.look()
    assert (share.said, exchange.ended("g1")) == (["stacks", "cancel"], {"demo-1"})
