"""One child process: it imports torch once, runs one function after another, and takes its memory with it."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import psutil

from tasks.foundation.errors import CancelledRunError, ErrorRecord, HangError, RankError, ResourceError, TunelineError
from tasks.launch.environment import QUIET
from tasks.launch.guard import end_with_parent
from tasks.launch.launchers import StallSettings
from tasks.launch.logs import cap
from tasks.launch.ownership import GANG
from tasks.launch.reap import sweep
from tasks.launch.slots import Devices
from tasks.launch.starting import start_process
from tasks.launch.vigil import PATIENCE, Vigil

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int, float | None], None]
"""Called with units done, units in all, and a loss where there is one."""

_END_SECONDS = 5.0
"""How long an idle child may take to end by itself, and a killed one to be cleared away."""
_LOOK_SECONDS = 0.5
"""How often a silent child is looked at."""
_DUMP_SECONDS = 1.0
"""How long a hung child gets to write its stacks."""


@dataclass(frozen=True)
class Call:
    """What a child is asked to do."""

    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]
    reports: bool
    """The function gets one more argument, `report(done, total, loss)`."""


@dataclass(frozen=True)
class _Answer:
    value: Any


@dataclass(frozen=True)
class _Progress:
    done: int
    total: int
    loss: float | None


class Child:
    """The parent's end of a child. One thread calls it at a time; any thread may kill it."""

    def __init__(self, log_file: Path, devices: Devices, stall: StallSettings = PATIENCE) -> None:
        """Start it.

        Args:
            log_file: gets whatever the child prints, appended.
            devices: the accelerators that it sees; all when empty.
            stall: how long it may go without getting on.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._log_file = log_file
        self._mark = uuid.uuid4().hex
        arguments = (theirs, log_file, devices, self._mark)
        self._process = context.Process(target=_serve, args=arguments, name="tuneline-child")
        start_process(self._process.start)
        self._handle = psutil.Process(self._process.pid)
        theirs.close()
        self._in_call = False
        self._stall = stall
        self.devices = devices

    @property
    def usable(self) -> bool:
        """True while it lives and is not in the middle of a call."""
        return not self._in_call and self._process.is_alive() and self._has_life()

    def _has_life(self) -> bool:
        """A killed process cannot be waited for as long as one of its threads is on its way out."""
        try:
            return self._handle.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def run(self, call: Call, on_progress: OnProgress | None) -> Any:
        """Have the call made, and wait for its answer.

        Raises:
            TunelineError: as the function raised it, or the cause of the child's death.
            HangError: it lives and does nothing.
        """
        name = getattr(call.function, "__name__", "a function")
        try:
            self._connection.send(call)
        except ConnectionError as error:
            raise self._cause_of_death(name) from error
        self._in_call = True
        vigil = Vigil(self._handle, self._stall)
        while isinstance(message := self._receive(name, vigil), _Progress):
            vigil.reported()
            if on_progress is not None:
                on_progress(message.done, message.total, message.loss)
        self._in_call = False
        if isinstance(message, ErrorRecord):
            raise message.error()
        return message.value

    def _receive(self, name: str, vigil: Vigil) -> Any:
        """What was sent before a death counts, so the pipe is looked at before the process."""
        while not self._has_news():
            if vigil.is_over():
                raise self._hang(name, vigil)
        try:
            if self._connection.poll():
                return self._connection.recv()
        except (EOFError, OSError):  # it died in the middle of a message
            pass
        raise self._cause_of_death(name)

    def _has_news(self) -> bool:
        news = wait([self._connection, self._process.sentinel], _LOOK_SECONDS)
        cap(self._log_file)
        return bool(news)

    def _hang(self, name: str, vigil: Vigil) -> HangError:
        with suppress(psutil.NoSuchProcess):
            self._handle.send_signal(signal.SIGUSR1)
            self._process.join(_DUMP_SECONDS)
        return HangError(
            f"the process that ran {name} has not got on for {vigil.limit_seconds:g} s",
            where=str(self._log_file),
            fix=f"The end of this log shows where it stands; raise {vigil.setting} if it is only slow",
        )

    def _cause_of_death(self, name: str) -> TunelineError:
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return ResourceError(
                f"the process that ran {name} was killed, most likely for lack of memory",
                fix="Lower evaluation.batch_size or distributed.parallel_cells",
            )
        if code == -signal.SIGTERM:
            return CancelledRunError(f"the process that ran {name} got SIGTERM", fix="Run it again")
        end = f"of {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return RankError(f"the process that ran {name} died {end}", where=str(self._log_file), fix="This log says more")

    def end(self) -> None:
        """Let it end by itself; it does when its pipe is closed."""
        self._connection.close()
        self._process.join(_END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it at once, with the processes that it started; those are found also where it is dead already.

        One that waits in a driver or a file system cannot be killed before that lets go of it: it is not waited for.
        """
        self._process.kill()
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            log.warning("pid %s got SIGKILL and is still there: the system does not let go of it", self._process.pid)
        sweep(GANG, self._mark)


def _serve(connection: Connection, log_file: Path, devices: Devices, mark: str) -> None:
    """The child's main function: one call after another until the pipe is closed."""
    parent = multiprocessing.parent_process()
    end_with_parent(parent.pid if parent else None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the pipeline, which ends this process in order
    os.environ |= QUIET | {GANG: mark} | ({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {})
    with log_file.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    faulthandler.register(signal.SIGUSR1)
    while True:
        try:
            _reply(connection, log_file)
        except (EOFError, ConnectionError):
            return


def _reply(connection: Connection, log_file: Path) -> None:
    def report(done: int, total: int, loss: float | None = None) -> None:
        connection.send(_Progress(done, total, loss))

    request = connection.recv_bytes()
    try:
        call: Call = ForkingPickler.loads(request)
        args = (*call.args, report) if call.reports else call.args
        connection.send(_Answer(call.function(*args, **call.kwargs)))
    except TunelineError as error:
        connection.send(ErrorRecord.of(error))
    except Exception as error:  # the outermost frame of this process
        traceback.print_exception(error)
        record = ErrorRecord.of(error)
        connection.send(record.model_copy(update={"fix": record.fix or f"{log_file} says more"}))
