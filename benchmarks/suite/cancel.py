"""One training, cancelled again and again through Prefect as the page's button does it, on the team's own stack."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import httpx
import psutil
import yaml

from benchmarks.base import Benchmark, Conditions
from benchmarks.findings import Finding
from benchmarks.running import FailedError, environment, run_tuneline, tuneline
from benchmarks.servers import free_port
from benchmarks.world import Work, World, base_folder, make_world
from tasks.foundation.digests import digest_file
from tasks.training.recording import read_metrics

T = TypeVar("T")

_LIMIT_SECONDS = 20.0
_PATIENCE_SECONDS = 400.0
_STEPS_BETWEEN = 3
_CLIENT = "benchmark"
_ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Cancel(Benchmark):
    """`--repeats` is the number of cancels. Postgres, MLflow and Prefect with passwords and a worker are started by
    `tuneline stack up`; after the last cancel the same training is let to its end."""

    name: ClassVar[str] = "cancel"
    covers: ClassVar[str] = "20 s"
    question: ClassVar[str] = "What does a cancel leave behind, and does the training end as if there had been none?"

    def measure(self, conditions: Conditions) -> tuple[Finding, ...]:
        work = Work(steps=40 + 12 * conditions.repeats, train_rows=400, eval_rows=4, max_new_tokens=2, save_steps=10)
        base = base_folder(conditions.scratch)
        world, undisturbed = (make_world(conditions.scratch / name, base, work) for name in ("world", "undisturbed"))
        run_tuneline(undisturbed, "run", _experiment(undisturbed))
        experiment = _experiment(world)
        with _stack(world) as server:
            findings, reached = [], 0
            for number in range(1, conditions.repeats + 1):
                finding, reached = _cancelled(server, world, experiment, number, reached)
                findings.append(finding)
            ended = server.wait(server.start(experiment))
        same = _adapter(world) == _adapter(undisturbed)
        saw = f"{ended}, {'the same bytes as' if same else 'other bytes than'} an undisturbed one"
        verdict = "holds" if same and ended == "COMPLETED" else "does not hold"
        done = f"let to its end after {conditions.repeats} cancels"
        return (*findings, Finding(name="end", done=done, saw=saw, verdict=verdict, broken=verdict != "holds"))


class _Server:
    """Prefect's API, as somebody who may."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        user, _, password = variables["PREFECT_API_AUTH_STRING"].partition(":")
        self._client = httpx.Client(base_url=variables["PREFECT_API_URL"], auth=(user, password), timeout=60)
        token = self._ask("GET", f"/csrf-token?client={_CLIENT}")["token"]
        self._client.headers.update({"Prefect-Csrf-Client": _CLIENT, "Prefect-Csrf-Token": token})

    def start(self, experiment: str) -> str:
        """Trigger the comparison; the id of the flow run."""
        deployment = self._ask("GET", "/deployments/name/compare-methods/compare-methods")["id"]
        body = {"parameters": {"experiment": experiment}, "state": {"type": "SCHEDULED"}}
        return str(self._ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])

    def cancel(self, flow_run: str) -> None:
        """What the page's button sends."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self._ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": state})

    def wait(self, flow_run: str) -> str:
        """The state in which it ends."""
        return _until(lambda: state if (state := self._state(flow_run)) in _ENDED else None)

    def _state(self, flow_run: str) -> str:
        return str(self._ask("GET", f"/flow_runs/{flow_run}")["state_type"])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return self._client.request(method, path, json=body).raise_for_status().json()


def _cancelled(server: _Server, world: World, experiment: str, number: int, reached: int) -> tuple[Finding, int]:
    """Cancel it some steps after where it was; what is left then, and where it stands."""
    flow_run = server.start(experiment)
    _until(lambda: _step(world) > reached + _STEPS_BETWEEN or None)
    server.cancel(flow_run)
    begun = time.perf_counter()
    _until(lambda: not _processes_of(flow_run) or None, every=0.2)
    seconds, ended, step = time.perf_counter() - begun, server.wait(flow_run), _step(world)
    kept = any((world.folder / "runs" / "work").glob(f"*/checkpoints/step-{step:08}/manifest.json"))
    good = seconds <= _LIMIT_SECONDS and ended == "CANCELLED" and kept
    saw = f"no process after {seconds:.1f} s, {ended}, {'a' if kept else 'no'} checkpoint of step {step}"
    verdict = "holds" if good else "does not hold"
    done = f"cancelled {_STEPS_BETWEEN + 1} steps or more after step {reached}"
    return Finding(name=f"{number:02}", done=done, saw=saw, verdict=verdict, broken=not good), step


def _until(condition: Callable[[], T | None], every: float = 0.5) -> T:
    end = time.monotonic() + _PATIENCE_SECONDS
    while (found := condition()) is None:
        if time.monotonic() > end:
            raise FailedError(f"it never came within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(every)
    return found


def _step(world: World) -> int:
    """The last step that the training recorded: its progress is shown only now and then."""
    lines = [read_metrics(path)[-1:] for path in (world.folder / "runs" / "work").glob("*/metrics.jsonl")]
    return max((line.step for [line] in filter(None, lines)), default=0)


def _processes_of(flow_run: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["environ", "status"]):
        mine = (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == flow_run
        if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def _experiment(world: World) -> str:
    """The LoRA cell, with steps that take a while; where the forms look for experiments."""
    written = world.experiment(["lora"])
    content = yaml.safe_load(written.read_text(encoding="utf-8"))
    content["training"] |= {"gradient_accumulation_steps": 2}
    content["registry"] = {}
    path = world.folder / "experiments" / "long.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return "experiments/long.yaml"


def _adapter(world: World) -> str:
    (path,) = (world.folder / "runs" / "artifacts" / "train").glob("*/adapter/adapter_model.safetensors")
    return digest_file(path)


@contextmanager
def _stack(world: World) -> Iterator[_Server]:
    """Up on ports of its own; where Postgres is another user, that one must be able to go through the folder."""
    for folder in (world.folder, *world.folder.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    ports = [part for name in ("postgres", "mlflow", "prefect") for part in (f"--{name}-port", str(free_port()))]
    try:
        run_tuneline(world, "stack", "up", *ports)
        yield _Server(_variables(world.folder))
    finally:
        subprocess.run(tuneline("stack", "down"), cwd=world.folder, env=environment(world.folder), check=False)


def _variables(folder: Path) -> dict[str, str]:
    """What the stack's `env` sets."""
    read = ["sh", "-c", "set -a; . stack/env; exec env -0"]
    said = subprocess.run(
        read, cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in said.stdout.split("\0") if line)
