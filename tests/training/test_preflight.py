"""Before anything is loaded every rank's place is held against the request, and all that differs is told at once."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.artifacts import Artifact
from tasks.foundation.digests import canonical_json
from tasks.foundation.errors import DependencyError, ErrorRecord, IntegrityError, ResourceError, TunelineError
from tasks.launch import Layout
from tasks.models.values import BaseModel
from tasks.training import preflight
from tasks.training.meeting import check_announced_address, knock, meet
from tasks.training.preflight import check_places, report
from tasks.training.values import TrainRequest
from tests.launch.worlds import PATIENCE_SECONDS
from tests.ports import free_port, refusing_port
from tests.training.ranks import run_ranks
from tests.training.worlds import LORA, request_in, toy_cell


@pytest.fixture
def own(tmp_path: Path, base: BaseModel, tokens: Artifact) -> TrainRequest:
    """A request whose base and tokens lie in the test's folder, as the pipeline hands it over."""
    copies = {"path": Path(shutil.copytree(base.path, tmp_path / "base"))}
    rows = {"path": Path(shutil.copytree(tokens.path, tmp_path / "tokens"))}
    cell = toy_cell(base.model_copy(update=copies), tokens.model_copy(update=rows), LORA)
    return request_in(tmp_path, cell)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No rank of a gang: what torchrun sets is not there."""
    for name in ("RANK", "LOCAL_RANK", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    yield


def rewritten(path: Path, content: bytes) -> None:
    """Another file in the place of the old one, as a copy on a node's own disk is."""
    staged = path.with_name("staged")
    staged.write_bytes(content)
    staged.replace(path)


def flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


def on_nodes(request: TrainRequest, nodes: int, **layout: object) -> TrainRequest:
    placed = request.cell.model_copy(update={"layout": Layout(nodes=nodes, **layout)})
    return request.model_copy(update={"cell": placed})


def test_what_the_pipeline_saw_passes(own: TrainRequest, alone: None) -> None:
    check_places(own)


@pytest.mark.parametrize("file", ["base/model.safetensors", "base/tokenizer.json", "tokens/train.arrow"])
def test_another_byte_in_a_copy_is_found_and_named(own: TrainRequest, alone: None, tmp_path: Path, file: str) -> None:
    rewritten(tmp_path / file, flipped(tmp_path / file))
    with pytest.raises(IntegrityError, match=re.escape(str((tmp_path / file).parent))):
        check_places(own)


def test_a_copy_with_the_same_bytes_passes(own: TrainRequest, alone: None, tmp_path: Path) -> None:
    for file in ("base/model.safetensors", "tokens/train.arrow"):
        rewritten(tmp_path / file, (tmp_path / file).read_bytes())
    check_places(own)


def test_a_file_that_the_pipeline_hashed_is_not_read_again(
    own: TrainRequest, alone: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[Path] = []
    monkeypatch.setattr("tasks.training.marks.digest_tree", lambda folder, names: read.append(folder) or "")
    monkeypatch.setattr("tasks.training.marks.verify", read.append)
    check_places(own)
    assert read == []
    os.utime(tmp_path / "tokens" / "eval.arrow", ns=(1, 1))
    check_places(own)
    assert read == [tmp_path / "tokens"]


@pytest.mark.parametrize("file", ["base/model.safetensors", "base/config.json", "tokens/eval.arrow"])
def test_a_missing_file_and_one_of_another_size_are_found_without_reading(
    own: TrainRequest, alone: None, tmp_path: Path, file: str
) -> None:
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[:-1])
    assert "bytes, not" in told(own)
    (tmp_path / file).unlink()
    assert str(tmp_path / file.partition("/")[0]) in told(own)


def told(request: TrainRequest) -> str:
    """What this rank complains of, in one line."""
    return " | ".join(f"{problem.where} {problem.what}" for problem in report(request).problems)


def test_tokens_of_another_run_are_no_tokens_of_this_one(own: TrainRequest, alone: None) -> None:
    other = own.cell.tokens.model_copy(update={"digest": "0" * 64})
    request = own.model_copy(update={"cell": own.cell.model_copy(update={"tokens": other})})
    assert "another manifest" in told(request)


def test_without_the_pipelines_word_every_byte_is_read(own: TrainRequest, alone: None, tmp_path: Path) -> None:
    (tmp_path / "base" / "model.safetensors").write_bytes(flipped(tmp_path / "base" / "model.safetensors"))
    assert "another sha256" in told(own.model_copy(update={"seen": {}}))


def test_on_several_nodes_code_and_libraries_are_compared(
    own: TrainRequest, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = own.identity | {"code": canonical_json("0" * 64), "library.torch": canonical_json("1.0")}
    request = on_nodes(own.model_copy(update={"identity": identity}), 2)
    problems = report(request).problems
    assert [problem.exit_code for problem in problems] == [40, 10]
    assert problems[1].what == f"torch is {torch.__version__}, not 1.0"
    assert report(on_nodes(request, 1)).problems == ()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert [problem.exit_code for problem in report(on_nodes(request, 1)).problems] == [40, 10], "another machine too"


def test_everything_that_is_wrong_is_in_one_line_and_bytes_decide_the_exit_code(
    own: TrainRequest, alone: None, tmp_path: Path
) -> None:
    rewritten(tmp_path / "base" / "model.safetensors", flipped(tmp_path / "base" / "model.safetensors"))
    identity = own.identity | {"library.peft": canonical_json("0.0")}
    with pytest.raises(IntegrityError) as caught:
        check_places(on_nodes(own.model_copy(update={"identity": identity}), 2, device="cuda"))
    text = str(caught.value)
    assert "peft is" in text and "another sha256" in text and "no accelerator" in text and "\n" not in text


def test_an_accelerator_that_is_not_there_is_a_lack_of_resources(own: TrainRequest, alone: None) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has accelerators")
    with pytest.raises(ResourceError, match="local rank 0 has no accelerator"):
        check_places(on_nodes(own, 1, device="cuda"))


def test_a_base_that_does_not_fit_into_memory_is_refused_unless_it_is_shared(own: TrainRequest, alone: None) -> None:
    facts = own.cell.base.facts.model_copy(update={"parameters": 10**15})
    cell = own.cell.model_copy(update={"base": own.cell.base.model_copy(update={"facts": facts})})
    request = own.model_copy(update={"cell": cell})
    assert "the base takes 4,000,000,000,000,000" in told(request)
    shared = {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": 3}}}
    assert "the base takes 2,000,000,000,000,000" in told(on_nodes(request, 2, ranks_per_node=2, **shared))


def on_two_nodes(request: TrainRequest, second: Callable[[], TrainRequest]) -> list[ErrorRecord | None]:
    """Two forked ranks, each the first of its node, meet and compare; what each of them raised, by rank."""
    port, pair = free_port(), multiprocessing.get_context("fork")
    answers = pair.Queue()

    def rank(number: int) -> None:
        os.environ |= {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        socket.gethostname = lambda: f"n{number + 1}"
        own = second() if number else request
        try:
            meet(own.cell.layout, 60.0)
            check_places(own)
            answers.put((number, None))
        except TunelineError as error:
            answers.put((number, ErrorRecord.of(error)))

    ranks = [pair.Process(target=rank, args=(number,), daemon=True) for number in range(2)]
    for process in ranks:
        process.start()
    found = dict(answers.get(timeout=PATIENCE_SECONDS) for _ in ranks)
    for process in ranks:
        process.join()
    return [found[0], found[1]]


def test_two_nodes_that_have_the_same_train(own: TrainRequest) -> None:
    request = on_nodes(own, 2)
    assert on_two_nodes(request, lambda: request) == [None, None]


def test_what_differs_on_one_node_ends_all_ranks_with_the_same_word_naming_the_node(own: TrainRequest) -> None:
    request = on_nodes(own, 2)

    def with_old_libraries() -> TrainRequest:
        here = preflight.cell_facts

        def other(*facts: Any) -> dict[str, str]:
            return here(*facts) | {"library.transformers": canonical_json("4.0"), "code": canonical_json("0")}

        preflight.cell_facts = other
        return request

    first, second = on_two_nodes(request, with_old_libraries)
    assert first == second
    assert first is not None and first.exit_code == 40
    assert first.what.startswith("n2: tuneline's code is not that of the request; n2: transformers is 4.0, not 5.")


def test_a_rank_that_read_another_request_is_named(own: TrainRequest) -> None:
    request = on_nodes(own, 2)
    first, second = on_two_nodes(request, lambda: request.model_copy(update={"attempt": "older"}))
    assert first == second
    assert first is not None and first.exit_code == 40
    assert first.what == "n2: read another request than rank 0 on n1"


def test_forked_ranks_find_a_damaged_base_before_they_load_it(own: TrainRequest, tmp_path: Path) -> None:
    rewritten(tmp_path / "base" / "model.safetensors", flipped(tmp_path / "base" / "model.safetensors"))
    request = on_nodes(own, 1, ranks_per_node=2)
    assert run_ranks(request) == [40, 40]
    record = ErrorRecord.model_validate_json((request.work / "failure.json").read_text())
    assert (record.where, "another sha256" in record.what) == ("preflight", True)


def test_a_rendezvous_that_refuses_is_named_with_address_and_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("RANK", "3")
    with (
        refusing_port() as port,
        pytest.raises(DependencyError, match=rf"^rendezvous 127.0.0.1:{port}: rank 3 on .*eth7"),
    ):
        knock("127.0.0.1", port, 0.1)


def test_a_rendezvous_that_opens_later_is_found() -> None:
    with socket.socket() as late:
        port = free_port()
        opening = threading.Timer(0.5, lambda: (late.bind(("127.0.0.1", port)), late.listen()))
        opening.start()
        knock("127.0.0.1", port, 60.0)
        opening.join()


def test_ranks_that_never_all_come_end_as_a_dependency(own: TrainRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(DependencyError, match="rank 0 on localhost cannot join the others"):
        meet(Layout(nodes=2), 1.0)


@pytest.mark.parametrize(
    ("interface", "master", "problem"),
    [
        ("lo", "10.1.2.3", "would announce 127.0.0.1, which other nodes cannot reach"),
        ("nope7", "10.1.2.3", "has no address on interface 'nope7'"),
    ],
)
def test_an_address_that_only_this_node_reaches_is_not_announced(
    monkeypatch: pytest.MonkeyPatch, interface: str, master: str, problem: str
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", interface)
    with pytest.raises(DependencyError, match=problem):
        check_announced_address(master)


def test_a_gang_that_meets_at_the_loopback_address_may_announce_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    check_announced_address("127.0.0.1")


def test_one_process_by_hand_needs_no_group(alone: None) -> None:
    meet(Layout(ranks_per_node=1), 1.0)
    assert not torch.distributed.is_initialized()
