"""Where the plain script is hurt: a folder per case, its runs, and what can be seen of them afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import psutil
from safetensors.numpy import load_file

from benchmarks.running import ROOT, FailedError, environment
from benchmarks.world import World
from tasks.foundation.digests import digest_file
from tasks.foundation.values import Value

STEPS, SAVE_STEPS = 40, 10
BOUND_SECONDS = 600.0
"""How long a run may take that is not expected to hang."""

_MARK = "PLAIN_CASE"
_BAR = re.compile(r"(it/s|s/it)\]")
_POLL_SECONDS = 0.05


class Attempt(Value):
    """One run of the script."""

    code: int | None
    """Exit code, negative for a signal; None where it still ran when we stopped waiting and killed it."""
    seconds: float
    said: str
    """The last line of its output that says something."""

    @property
    def ending(self) -> str:
        """`exit 1 (ValueError: …)`."""
        if self.code is None:
            return f"still running after {self.seconds:.0f} s"
        named = f"killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exit {self.code}"
        return f"{named} ({self.said[:110]})" if self.code > 0 and self.said else named


class WarmScript:
    """The process that has imported the script; it may be asked from several threads."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.parts.warm_script"],
            cwd=folder,
            env=environment(folder, threads=1),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "warm_script.log").open("wb"),
            text=True,
        )
        self._read()

    def __enter__(self) -> WarmScript:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """With every run that it has forked."""
        runs = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for run in runs:
            with suppress(psutil.NoSuchProcess):
                run.kill()
        self._process.wait()

    def start(self, **request: Any) -> int:
        """Fork a run; its process id."""
        return int(self._ask({"start": request})["pid"])

    def poll(self, pid: int) -> int | None:
        """Exit code, None while it runs; it is told once."""
        code: int | None = self._ask({"poll": pid})["code"]
        return code

    def run(self, folder: Path, arguments: Sequence[str]) -> None:
        """An unhurt run to its end.

        Raises:
            FailedError: it did not end with 0.
        """
        log = folder / "log.txt"
        pid = self.start(folder=str(folder), arguments=list(arguments), wounds=[], log=str(log))
        while (code := self.poll(pid)) is None:
            time.sleep(_POLL_SECONDS)
        if code:
            raise FailedError(log.read_text(encoding="utf-8")[-3000:])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            requests = cast(IO[str], self._process.stdin)
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            return self._read()

    def _read(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(cast(IO[str], self._process.stdout).readline())
        return answer


class Case:
    """One folder with the data, an empty MLflow store, and everything that the runs in it leave."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.folder = stage.scratch / name
        shutil.copytree(stage.template, self.folder)
        self.output = self.folder / "out"
        self.log = self.folder / "log.txt"

    def arguments(self, resume: bool, changes: Mapping[str, str]) -> list[str]:
        """Of the script; `changes` are options by name."""
        world = World(folder=self.folder, base=self.stage.world.base, work=self.stage.world.work)
        options = {"output": str(self.output)} | dict(changes)
        return world.plain_arguments("lora", options) + (["--resume"] if resume else [])

    def start(self, *wounds: str, resume: bool = False, changes: Mapping[str, str] = {}) -> Running:
        """Start a run in a process of its own and do not wait."""
        pid = self.stage.script.start(
            folder=str(self.folder), arguments=self.arguments(resume, changes), wounds=wounds, log=str(self.log)
        )
        return Running(self, pid)

    def run(
        self, *wounds: str, resume: bool = False, changes: Mapping[str, str] = {}, bound: float = BOUND_SECONDS
    ) -> Attempt:
        """Run to the end, or to the bound."""
        return self.start(*wounds, resume=resume, changes=changes).wait(bound)

    def digest(self, folder: str = "weights") -> str:
        """sha256 of the adapter that was left; empty where there is none."""
        path = self.output / folder / "adapter_model.safetensors"
        return digest_file(path) if path.exists() else ""

    def is_finite(self) -> bool:
        """Whether every number of the adapter is one."""
        tensors = load_file(self.output / "weights" / "adapter_model.safetensors")
        return all(bool(np.isfinite(tensor).all()) for tensor in tensors.values())

    def checkpoints(self) -> list[int]:
        """Steps, ascending."""
        return sorted(int(path.name.rpartition("-")[2]) for path in self.output.glob("checkpoint-*"))

    def running(self) -> int:
        """Runs that MLflow believes to be running."""
        return int(self.ask("select count(*) from runs where status = 'RUNNING'"))

    def logged_steps(self) -> int:
        """Steps with a loss in the run that has most of them."""
        per_run = "select count(distinct step) n from metrics where key = 'loss' group by run_uuid"
        return int(self.ask(f"select coalesce(max(n), 0) from ({per_run})"))  # noqa: S608 - our own words

    def ask(self, query: str) -> Any:
        """One value from the MLflow store."""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            return store.execute(query).fetchone()[0]

    def last_words(self) -> str:
        """The last line of the log that has words and is no progress bar."""
        text = self.log.read_text(encoding="utf-8", errors="replace").replace(f"{self.folder}/", "")
        lines = text.replace("\r", "\n").splitlines()
        words = [line.strip() for line in lines if re.search(r"[A-Za-z]{3}", line) and not _BAR.search(line)]
        return words[-1] if words else ""


class Running:
    """A run that was started."""

    def __init__(self, case: Case, pid: int) -> None:
        self._case = case
        self.pid = pid
        self._started = time.monotonic()

    def wait(self, bound: float = BOUND_SECONDS) -> Attempt:
        """Its end; it is killed when the bound is reached."""
        code = None
        while code is None and time.monotonic() - self._started < bound:
            time.sleep(_POLL_SECONDS)
            code = self._case.stage.script.poll(self.pid)
        seconds = time.monotonic() - self._started
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            while self._case.stage.script.poll(self.pid) is None:
                time.sleep(_POLL_SECONDS)
        return Attempt(code=code, seconds=seconds, said=self._case.last_words())


class Stage:
    """What all cases share."""

    def __init__(self, scratch: Path, world: World, script: WarmScript) -> None:
        """`world`: whose rows are copied into each case."""
        self.scratch = scratch / "cases"
        self.world = world
        self.script = script
        self.template = scratch / "template"
        self.template.mkdir()
        for name in ("train.csv", "eval.csv"):
            shutil.copy(world.folder / name, self.template)
        subprocess.run([sys.executable, "-c", _MAKE_STORE], cwd=self.template, env=environment(scratch), check=True)
        self.undisturbed = self.case("undisturbed")
        attempt = self.undisturbed.run()
        if attempt.code != 0:
            raise RuntimeError(f"the script does not even run by itself: {attempt}")
        self.expected = self.undisturbed.digest()

    def case(self, name: str) -> Case:
        """A new folder."""
        return Case(self, name)


_MAKE_STORE = "from mlflow.tracking import MlflowClient; MlflowClient('sqlite:///mlflow.db').search_experiments()"


class Ranks:
    """Two ranks of the script under torchrun, as a user starts it; found by a mark in their environment."""

    def __init__(self, case: Case, rendezvous: str, *, resume: bool = False, changes: Mapping[str, str] = {}) -> None:
        """`rendezvous`: the option of torchrun that says where ranks meet."""
        self._case = case
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", rendezvous]
        command += [str(ROOT / "benchmarks" / "plain_script.py"), *case.arguments(resume, changes)]
        self._started = time.monotonic()
        with case.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=case.folder,
                env=environment(case.folder, threads=1) | {_MARK: str(case.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ranks(self) -> list[psutil.Process]:
        """Living processes that run the script, by rank."""
        found = [(process.environ(), process) for process in self.alive() if process.pid != self.process.pid]
        return [process for place, process in sorted(found, key=lambda one: one[0].get("RANK", "")) if "RANK" in place]

    def alive(self) -> list[psutil.Process]:
        """Every living process of this gang."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            ours = process.environ().get(_MARK) == str(self._case.folder)
            return ours and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until something is so, or torchrun has ended."""
        while not condition() and self.process.poll() is None:
            time.sleep(_POLL_SECONDS)

    def wait(self, bound: float) -> Attempt:
        """Of torchrun."""
        left = max(bound - (time.monotonic() - self._started), 0)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(left)
        seconds = time.monotonic() - self._started
        return Attempt(code=self.process.poll(), seconds=seconds, said=self._case.last_words())

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing stays behind: not even what the script would leave."""
        for process in self.alive():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
