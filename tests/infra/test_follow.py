"""The watcher example: the alias moves under load, and nobody is turned away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.flows.serving import MODEL, Shop, make_shop
from tests.launch.worlds import alive, wait_until
from tests.ports import free_port
from tests.registry.test_serving import PLAIN
from tests.registry.worlds import PROMPT, direct_greedy

FOLLOW = Path(__file__).resolve().parents[2] / "infra" / "serve" / "follow.py"
NEW_TOKENS = 6
PATIENCE_SECONDS = 400.0
"""Two versions start here beside users who ask; only a limit for what never comes."""
BODY = json.dumps({"dataframe_records": [{"prompt": PROMPT}], "params": {"max_new_tokens": NEW_TOKENS}}).encode()


class Answer(NamedTuple):
    """What one of the users got."""

    version: str
    text: str


def ask(port: int) -> Answer:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", BODY, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        return Answer(answer.headers["X-Model-Version"], json.load(answer)["predictions"][0])


@contextmanager
def users(port: int, count: int = 3) -> Iterator[list[Answer | Exception]]:
    """So many users who ask again and again until the end of the block; what they got, failures included."""
    got: list[Answer | Exception] = []
    enough = threading.Event()

    def keep_asking() -> None:
        while not enough.wait(0.05):
            try:
                got.append(ask(port))
            except Exception as error:
                got.append(error)

    threads = [threading.Thread(target=keep_asking) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield got
    finally:
        enough.set()
        for thread in threads:
            thread.join()


@contextmanager
def following(shop: Shop, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The script as its docstring starts it, and the file with what it says."""
    said = shop.folder / "follow.txt"
    command = [sys.executable, str(FOLLOW), f"{MODEL}@champion", "--port", str(port), "--every", "0.5"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": str(shop.world.tracking.uri), "OMP_NUM_THREADS": "1"}
    with said.open("wb") as output:
        process = subprocess.Popen(command, cwd=shop.folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process, said
    finally:
        process.kill()
        process.wait()


def harm(shop: Shop, version: int) -> None:
    (found,) = (each for each in shop.world.versions(MODEL) if int(each.version) == version)
    folder = shop.folder / "artifacts" / shop.world.run_id / "artifacts" / found.source.rpartition("/")[2]
    (folder / "requirements.txt").write_text("")


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_when_the_alias_moves_no_request_fails_and_what_cannot_be_served_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shop, port = make_shop(tmp_path_factory.mktemp("shop")), free_port()
    expected = {
        str(number): direct_greedy(candidate, PLAIN, PROMPT, NEW_TOKENS)
        for number, candidate in shop.candidates.items()
    }
    with following(shop, port) as (process, said):
        wait_until(lambda: "version 1 answers now" in said.read_text(), PATIENCE_SECONDS)
        with users(port) as got:
            shop.move_champion(2)
            wait_until(lambda: "version 2 answers now" in said.read_text(), PATIENCE_SECONDS)
            harm(shop, 1)
            shop.move_champion(1)
            wait_until(lambda: "version 1 did not start; version 2 goes on" in said.read_text(), PATIENCE_SECONDS)
            after = len(got)
            wait_until(lambda: len(got) > after + 4)
        started = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        assert process.wait(120) == 0
        wait_until(lambda: not alive(started))
    assert not [each for each in got if isinstance(each, Exception)]
    answers = [each for each in got if isinstance(each, Answer)]
    assert [each.text for each in answers] == [expected[each.version] for each in answers]
    assert {each.version for each in answers} == {"1", "2"} and expected["1"] != expected["2"]
    assert {each.version for each in answers[after:]} == {"2"}
    assert "requirements.txt was changed" in said.read_text()
    assert said.read_text().count("is version 1: starting it") == 2, "once at the start, once in vain"
