"""What it costs that a version is verified before it is served, and that its answers take turns."""

from __future__ import annotations

import csv
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from typing import ClassVar

import httpx

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure
from benchmarks.running import FailedError, environment, run_tuneline, tuneline
from benchmarks.servers import free_port
from benchmarks.world import Work, World, base_folder, make_world

_PATIENCE_SECONDS = 300.0
_USERS = 4
_WARMING = 3
_UNITS = {"from the command to the first answer": "s", "an answer, one user": "ms", f"answers, {_USERS} users": "1/s"}
_AGAINST = "`mlflow models serve` over the same version, which verifies nothing"


class Serving(Benchmark):
    """Each side is started anew in each round, with one worker, over the tuned base as a whole model. The same
    prompts are asked one after another, then by four users at once; three before them warm it up."""

    name: ClassVar[str] = "serving"
    covers: ClassVar[str] = "-"
    question: ClassVar[str] = "How long until a served version answers, and how long does an answer take?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        work = Work(steps=conditions.size(100, 4), train_rows=800, eval_rows=20, max_new_tokens=48)
        world = make_world(conditions.scratch / "world", base_folder(conditions.scratch), work)
        run_tuneline(world, "run", world.experiment(["full"]).name)
        by_hand = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
        commands = {
            "tuneline": tuneline("serve", "bench@challenger"),
            "MLflow": [*by_hand, "--model-uri", "models:/bench@challenger"],
        }
        asker = _Asker(world, asked=conditions.size(60, 4))
        taking_turns(conditions.repeats, {name: partial(asker.ask, name, each) for name, each in commands.items()})
        return tuple(
            Figure(
                name=name,
                unit=unit,
                ours=tuple(asker.seen["tuneline", name]),
                theirs=tuple(asker.seen["MLflow", name]),
                against=_AGAINST,
            )
            for name, unit in _UNITS.items()
        )


class _Asker:
    """Asks servers, and keeps what it saw: (side, figure) -> one value per round."""

    def __init__(self, world: World, asked: int) -> None:
        self.seen: dict[tuple[str, str], list[float]] = {}
        self._world, self._asked = world, asked
        with (world.folder / "eval.csv").open(encoding="utf-8", newline="") as file:
            self._prompts = [row["prompt"] for row in csv.DictReader(file)]

    def ask(self, side: str, command: Sequence[str], number: int) -> float:
        """One server from its start to its end."""
        prompts = list(islice(cycle(self._prompts), self._asked))
        begun = time.perf_counter()
        with _serving(self._world, command) as client:
            started = time.perf_counter() - begun
            for prompt in prompts[:_WARMING]:
                _answer(client, prompt)
            median = statistics.median(_answer(client, prompt) for prompt in prompts)
            begun = time.perf_counter()
            with ThreadPoolExecutor(_USERS) as users:
                list(users.map(partial(_answer, client), prompts))
            together = time.perf_counter() - begun
        for name, value in zip(_UNITS, (started, 1000 * median, len(prompts) / together), strict=True):
            self.seen.setdefault((side, name), []).append(value)
        return started


def _answer(client: httpx.Client, prompt: str) -> float:
    """The seconds that an answer takes."""
    begun = time.perf_counter()
    client.post("/invocations", json={"dataframe_records": [{"prompt": prompt}]}).raise_for_status()
    return time.perf_counter() - begun


@contextmanager
def _serving(world: World, command: Sequence[str]) -> Iterator[httpx.Client]:
    """A server at a port of its own, once it has given its first answer."""
    port, folder = str(free_port()), world.folder
    variables = environment(folder) | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    with (folder / f"serving-{port}.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--port", port],
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _await_answer(client, server)
            yield client
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _await_answer(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            _answer(client, "the first one")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise FailedError(f"a server gave no answer within {_PATIENCE_SECONDS:.0f} s, or ended")
