"""Rows of the fault table that concern the pipeline around the training; those of its steps are in test_walk.py."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.orchestration import OwnServer, start_server, wait_for_server
from tasks.artifacts import Artifact
from tasks.foundation.errors import TunelineError
from tasks.launch import Gang, GangJob, Launcher
from tasks.launch.children import Children
from tasks.launch.logs import LIMIT_BYTES, cap, earlier
from tasks.models.values import BaseModel
from tasks.training.run import train
from tasks.training.supervision import Watch
from tests.faults.walking import data_work, digests
from tests.flows.worlds import (
    client,
    parents_of,
    runs_of,
    started,
    tuneline,
    wait_for_step,
    weights_of,
    write_experiment,
    write_world,
)
from tests.launch import functions
from tests.models.tiny import tiny_base, write_tiny_llama
from tests.ports import free_port, refusing_port
from tests.training.ranks import run_ranks
from tests.training.worlds import LORA, request_in, toy_cell

ONE = [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORM_TIMES = 70
"""210 MiB: several times what a log may hold."""


def test_row_22_a_flipped_bit_anywhere_in_the_cached_data_is_noticed_and_the_data_are_made_again(
    tmp_path: Path, base: BaseModel, tokens: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    work, root, dice = data_work(tmp_path, base, tokens), tmp_path / "root", random.Random(22)
    work(root)
    expected = digests(root)
    files = [path for path in sorted(root.glob("*/*/*")) if path.stat().st_size and path.name != "manifest.json"]
    assert {"train.jsonl", "eval.jsonl", "train.arrow", "eval.arrow"} <= {path.name for path in files}
    for path in files:
        caplog.clear()
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        work(root)
        assert f"{path.name} has another sha256" in caplog.text and "made again" in caplog.text
        assert digests(root) == expected


def test_row_24_a_base_that_was_changed_after_it_was_planned_with_is_refused_before_training(
    tokens: Artifact, tmp_path: Path
) -> None:
    base = tiny_base(write_tiny_llama(tmp_path / "base"))
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    weights = base.path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert run_ranks(request) == [40]
    assert "is not the base model of the request" in (request.work / "failure.json").read_text()


@pytest.mark.system
@pytest.mark.usefixtures("prefect_server")
def test_row_35_without_a_network_a_model_that_is_not_here_ends_with_one_line_and_21(tmp_path: Path) -> None:
    write_world(tmp_path)
    write_experiment(tmp_path, methods=ONE, model={"name_or_path": "someone/model", "revision": COMMIT})
    with refusing_port() as port:
        offline = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hub")}
        done = tuneline(tmp_path, "run", "toy.yaml", **offline)
    assert (done.returncode, len(done.stderr.splitlines())) == (21, 1), done.stderr
    assert "the model hub cannot be reached" in done.stderr


@pytest.fixture
def prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServer]:
    """A server that the user runs, and that a test may end."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    port = free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    server = start_server(port, tmp_path / "prefect.log")
    wait_for_server(server, print)
    yield server
    server.stop()


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("comes_back", [True, False])
def test_row_40_prefects_server_goes_away_while_a_cell_trains_and_the_cell_trains_on(
    tmp_path: Path, prefect: OwnServer, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "10" if comes_back else "1")
    folder = tmp_path / "world"
    write_world(folder)
    write_experiment(folder, methods=ONE, training={"max_steps": 300, "save_steps": 50})
    with started(folder, "run", "toy.yaml") as process:
        wait_for_step(folder, 3, process)
        prefect.stop()
        if comes_back:
            wait_for_step(folder, 50, process)
            again = start_server(int(os.environ["PREFECT_API_URL"].split(":")[2][:-4]), tmp_path / "again.log")
        output, errors = process.communicate()
    if comes_back:
        again.stop()
    assert (process.returncode, errors) == (0, ""), errors
    assert "Registered toy version 1" in output
    assert parents_of(runs_of(client(folder)))[-1].info.status == "FINISHED"
    trained = weights_of(folder)
    monkeypatch.delenv("PREFECT_API_URL")
    adopted = tuneline(folder, "run", "toy.yaml")
    assert (adopted.returncode, weights_of(folder)) == (0, trained), adopted.stderr
    assert "not run again: all cells" in adopted.stdout


def test_row_51_a_child_that_prints_without_end_and_no_utf8_neither_blocks_nor_fills_the_disk(tmp_path: Path) -> None:
    log = tmp_path / "children.log"
    pool = Children(1, log)
    try:
        assert pool.run(functions.storm, STORM_TIMES) == STORM_TIMES
        assert pool.run(functions.add, 1) == 2
    finally:
        pool.close()
    assert 0 < log.stat().st_size + earlier(log).stat().st_size <= 2 * LIMIT_BYTES


class Shouting(Launcher):
    """Instead of ranks: a process that prints without end until its log has been cut, and breaks off."""

    launcher: str = "shouting"

    def start(self, job: GangJob) -> Gang:
        with job.log.open("ab") as output:
            code = f"from tests.launch.functions import shout; shout({str(job.log)!r})"
            return Shouter(subprocess.Popen([sys.executable, "-c", code], stdout=output, stderr=output))


class Shouter:
    """The process as a gang."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def status(self) -> str:
        return ""

    def dump_stacks(self) -> None:
        raise NotImplementedError

    def cancel(self, grace_seconds: float) -> None:
        self._process.kill()
        self._process.wait()


def test_row_51_ranks_that_print_without_end_neither_block_nor_fill_the_disk(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    watch = Watch(request.work, lambda lines: None, lambda progress: None)
    with pytest.raises(TunelineError, match=r"log\.txt"):
        train(request, Shouting(max_restarts=0), (), watch)
    log = request.work / "log.txt"
    cap(log)  # what came after the last look
    assert log.read_bytes().endswith(b"the end \xff\n") or earlier(log).read_bytes().endswith(b"the end \xff\n")
    assert log.stat().st_size + earlier(log).stat().st_size <= 2 * LIMIT_BYTES
