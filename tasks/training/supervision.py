"""A gang from its start to its end: watched for progress, started again after a death or a hang, its end explained."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.errors import CancelledRunError, HangError, RankError, TunelineError
from tasks.foundation.faults import reach
from tasks.launch import GangJob, Launcher
from tasks.launch.failure import forget_failed_rank, read_failed_rank
from tasks.launch.gangs import current_gangs
from tasks.launch.kills import Kills, kills_so_far
from tasks.launch.logs import cap
from tasks.launch.protocol import Gang
from tasks.launch.tail import LogTail
from tasks.training.checkpoints import Checkpoints
from tasks.training.failing import FAILURE, is_weak, read_failure
from tasks.training.fence import new_attempt
from tasks.training.foresight import unsaid_full_disk
from tasks.training.hanging import HangWatch, hang_error
from tasks.training.memory import killed_for_memory
from tasks.training.pulse import forget_beats
from tasks.training.recording import MetricLine, MetricsTail, Progress, read_progress
from tasks.training.values import TrainRequest

log = logging.getLogger(__name__)

_GO_ON = "Run it again to go on from the last checkpoint"
_POLL_SECONDS = 0.2
_TERMINATED = (CancelledRunError.exit_code, -signal.SIGTERM)
"""A launcher that gets SIGTERM while it still starts has no word to say."""
_HUNG_GRACE_SECONDS = 2.0
"""A gang that hangs does not write a checkpoint any more."""


class Watch:
    """Follows a worker's files and passes each new thing on once, however often the worker starts again."""

    def __init__(
        self,
        work: Path,
        on_metrics: Callable[[list[MetricLine]], None],
        on_progress: Callable[[Progress], None],
        on_note: Callable[[str], None] = lambda text: None,
        on_output: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Only what comes from now on is passed on.

        Args:
            work: the worker's folder.
            on_metrics: gets lines of metrics.jsonl.
            on_progress: gets each step.
            on_note: what a person should know meanwhile: a queue's state, a start after a death; empty when over.
            on_output: gets what ranks print, a line at a time, as far as `LogTail` has room for it.
        """
        self._work = work
        self._on_metrics = on_metrics
        self._on_progress = on_progress
        self._on_note = on_note
        self._on_output = on_output
        self._output = LogTail(work / "log.txt")
        self._metrics = MetricsTail(work / "metrics.jsonl")
        self._passed: set[tuple[int, ...]] = set()
        self._progress: Progress | None = None
        self._note = ""
        self.restarts: list[str] = []
        """Why the worker started again, each time that it did."""

    def look(self) -> None:
        """Pass on what is new. Before the first progress the metrics are those of an earlier attempt, not yet cut."""
        progress = read_progress(self._work / "progress.json")
        if progress and progress != self._progress:
            self._progress = progress
            self._on_progress(progress)
            self._pass_on()
        for line in self._output.new_lines():
            self._on_output(line)

    def finish(self) -> None:
        """Pass on what is left."""
        self.look()
        self._pass_on()

    def hear_out(self) -> None:
        """Pass on the last words of ranks that have ended."""
        for line in self._output.last_lines():
            self._on_output(line)

    def note(self, text: str) -> None:
        """Pass on a note that differs from the last one."""
        if text != self._note:
            self._note = text
            self._on_note(text)

    def begin_again(self, reason: str) -> None:
        """The worker starts again: it cuts its metrics back and repeats those after its checkpoint."""
        self.restarts.append(reason)
        self._metrics = MetricsTail(self._work / "metrics.jsonl")
        self._progress = None

    def _pass_on(self) -> None:
        lines = [line for line in self._metrics.new_lines() if self._is_new(line)]
        if lines:
            self._on_metrics(lines)

    def _is_new(self, line: MetricLine) -> bool:
        mark = (line.step, hash(frozenset(line.values)))
        known = mark in self._passed
        self._passed.add(mark)
        return not known


def supervise(request: TrainRequest, job: GangJob, launcher: Launcher, watch: Watch) -> None:
    """Run the gang to a good end; after a death or a hang start it again from its newest checkpoint, as often as
    `max_restarts` allows.

    Raises:
        TunelineError: the cause that the worker recorded.
        RankError: a rank died without a word, and did so again.
        HangError: a rank stopped getting on, and did so again.
        CancelledRunError: the flow, or the gang from outside, was told to end.
    """
    for left in range(launcher.max_restarts, -1, -1):
        try:
            _attempt(request, job, launcher, watch)
        except (RankError, HangError) as error:
            if not left:
                raise
            log.warning("%s: %s; starting again (%d more times at most)", request.cell.label, error, left - 1)
            watch.note(f"started again: {error.what}")
            watch.begin_again(error.what)
        else:
            return


def _attempt(request: TrainRequest, job: GangJob, launcher: Launcher, watch: Watch) -> None:
    register = current_gangs()
    register.check()
    if not (_is_asked_for(request, job) and launcher.is_running(job)):
        _begin(request, job)
    kills = kills_so_far()
    reach("launch.start")
    gang = launcher.start(job)
    try:
        with register.running(gang):
            reach("launch.started")
            code = _follow(gang, request, HangWatch(request.work, job.ranks, launcher.stall_seconds), watch)
    finally:
        watch.hear_out()
    watch.finish()
    register.check()
    if code != 0:
        raise cause_of(code, request, kills)


def _is_asked_for(request: TrainRequest, job: GangJob) -> bool:
    """The file holds the same request already, whichever attempt it names and whoever made the tokens."""
    try:
        asked = TrainRequest.model_validate_json(job.request.read_bytes())
    except (OSError, ValidationError):
        return False
    return _lasting(asked) == _lasting(request)


def _lasting(request: TrainRequest) -> TrainRequest:
    """What another pipeline process would ask for as well: it finds the tokens that this one may have made."""
    tokens = request.cell.tokens.model_copy(update={"cached": True, "made_by": ""})
    return request.model_copy(update={"attempt": "", "cell": request.cell.model_copy(update={"tokens": tokens})})


def _begin(request: TrainRequest, job: GangJob) -> None:
    """Clear away what an earlier attempt said and wrote, and name the new one."""
    for leftover in ("progress.json", FAILURE):
        (request.work / leftover).unlink(missing_ok=True)
    forget_failed_rank(request.work)
    forget_beats(request.work)
    for half in request.output.glob("*"):
        shutil.rmtree(half) if half.is_dir() else half.unlink()
    attempt = new_attempt(request.work)
    write_durably(job.request, request.model_copy(update={"attempt": attempt}).model_dump_json(indent=2))


def _follow(gang: Gang, request: TrainRequest, hangs: HangWatch, watch: Watch) -> int:
    said = ""
    while (code := gang.poll()) is None:
        current_gangs().check()
        watch.look()
        cap(request.work / "log.txt")
        if (waiting := gang.status()) != said:
            watch.note(said := waiting)
        if stall := hangs.look(waiting=bool(waiting)):
            newest = Checkpoints(request.work / "checkpoints", request.identity).steps()[-1:]
            error = hang_error(stall, gang, request.work, newest[0] if newest else None)
            gang.cancel(_HUNG_GRACE_SECONDS)
            raise error
        time.sleep(_POLL_SECONDS)
    return code


def cause_of(code: int, request: TrainRequest, kills: Kills) -> TunelineError:
    """Why a gang ended with an exit code other than 0: in the worker's own words, or in the system's.

    A rank that only lost its peers, or broke off for a reason that nobody foresaw, is asked last: what killed the
    first one is the cause.

    Args:
        kills: what the kernel had killed for lack of memory before the gang started.
    """
    said = read_failure(request.work)
    if said and not is_weak(said):
        return said.error()
    if short := unsaid_full_disk(code, request) or killed_for_memory(code, kills, request):
        return short
    failed = read_failed_rank(request.work)
    was_killed = failed is not None and failed.exit_code < 0 and failed.exit_code != -signal.SIGTERM
    if not was_killed and said and said.exit_code != RankError.exit_code:
        return said.error()
    if not was_killed and code in _TERMINATED:
        return CancelledRunError("the ranks were terminated", fix=_GO_ON)
    what = f"{failed}" if failed else f"a rank died (the gang ended with {code})"
    fix = f"The end of this log says more. {_GO_ON}"
    return RankError(f"{what} and left no reason", where=str(request.work / "log.txt"), fix=fix)
