"""Slurm's own programs, asked one question each: bounded in time, and silence is never taken for an answer."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from tasks.foundation.errors import ConfigError, DependencyError, ResourceError, TunelineError
from tasks.foundation.values import Value

_PATIENCE_SECONDS = 20.0
"""Of one call. Slurm's clients themselves give up after about ten seconds without their controller."""

_NO_ANSWER = re.compile(
    r"contact slurm controller|timed out|connection refused|zero bytes|authentication|munge|transport endpoint"
    r"|controller.*(standby|not responding)|communications? (connection|shutdown)|unexpected message",
    re.IGNORECASE,
)
_NO_SUCH_JOB = re.compile(r"invalid job id", re.IGNORECASE)

_REFUSALS: tuple[tuple[str, type[TunelineError], str], ...] = (
    ("unrecognized option|unknown option", ConfigError, "distributed.sbatch"),
    ("partition", ConfigError, "distributed.partition"),
    ("qos", ConfigError, "distributed.sbatch.qos"),
    ("account", ConfigError, "distributed.account"),
    (r"gres|generic resource|gpus?\b", ResourceError, "distributed.gres"),
    ("time limit", ResourceError, "distributed.time"),
    ("node count|more processors|node configuration|exceed|limit", ResourceError, "distributed"),
)
"""What Slurm's words are about -> the cause, and the key that is to be changed; the first one that fits."""


_FILTERS = re.compile(r"(SQUEUE|SCANCEL|SACCT)_.*|SLURM_CLUSTERS")
"""A user's own settings of these programs: they hide jobs, or name another cluster than the one that sbatch asks."""


class RefusedError(TunelineError):
    """Slurm answered no; `what` is its own sentence."""


class JobView(Value):
    """One look at a job."""

    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETED, …"""
    reason: str = "None"
    """Why it waits."""
    restarts: int = 0
    """How often Slurm has put it back into the queue."""
    exit_code: int = 0
    """Of the batch script: 128 + the signal's number where a signal ended it."""
    preempted: bool = False
    """It is being moved aside for a more important one."""


class QueuedJob(Value):
    """A job that waits, runs or ends."""

    number: str
    state: str
    comment: str


def ask(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a program of Slurm prints.

    Raises:
        DependencyError: there is no such program, or nobody answers it.
        RefusedError: the answer is no.
    """
    program = command[0]
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            env={k: v for k, v in (environment or os.environ).items() if not _FILTERS.fullmatch(k)},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _no_answer(f"{program} got no answer within {_PATIENCE_SECONDS:.0f} s") from error
    except OSError as error:
        fix = "Run tuneline where Slurm's programs are (a login node), or set distributed.launcher: local"
        raise DependencyError(f"{program} cannot be started: {error}", where="distributed", fix=fix) from error
    if done.returncode == 0:
        return done.stdout
    said = _sentence(done.stderr) or f"{program} ended with exit code {done.returncode}"
    raise _no_answer(said) if _NO_ANSWER.search(said) else RefusedError(said)


def _no_answer(said: str) -> DependencyError:
    return DependencyError(f"Slurm's controller does not answer: {said}", fix="Ask `sinfo`; then run it again")


def _sentence(stderr: str) -> str:
    """The most telling part of what it printed: `sbatch: error: …: Invalid partition name specified` -> the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines
    return "; ".join(dict.fromkeys(re.sub(r"^\w+: (error|fatal): ", "", line) for line in errors))


def submit(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Hand in a job; its number.

    Raises:
        ConfigError, ResourceError: Slurm does not take it, and why.
        DependencyError: nobody answers.
    """
    try:
        said = ask(command, environment)
    except RefusedError as refused:
        raise _explained(refused.what) from refused
    numbers = re.findall(r"^(\d+)(?:;.*)?$", said, re.MULTILINE)  # a site may have it say more
    if not numbers:
        raise ConfigError(f"sbatch answered {said[:200]!r}, which is no number of a job", where="distributed.sbatch")
    return str(numbers[-1])


def _explained(said: str) -> TunelineError:
    for pattern, cause, where in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return cause(
                f"Slurm refuses the job: {said}", where=where, fix="`sinfo -o '%P %l %D %G'` shows what there is"
            )
    return ConfigError(f"Slurm refuses the job: {said}", where="distributed")


def look(number: str) -> JobView | None:
    """The job as it is now; None where the controller does not know it any more.

    Raises:
        DependencyError: nobody answers.
    """
    try:
        return parse_job(ask(["scontrol", "show", "job", number, "-o"]))
    except RefusedError as refused:
        if _NO_SUCH_JOB.search(refused.what):
            return None
        raise _no_answer(refused.what) from refused


def parse_job(line: str) -> JobView:
    """From `scontrol show job -o`. The first of each key counts: a user's own words come after all that we read.

    Raises:
        DependencyError: it is nothing of the kind.
    """
    found = dict(reversed(re.findall(r"(?:^|\s)(JobState|Reason|Restarts|ExitCode|PreemptTime)=(\S+)", line)))
    if "JobState" not in found:
        raise _no_answer(f"`scontrol show job` said {line[:200]!r}")
    code, _, number = found.get("ExitCode", "0:0").partition(":")
    return JobView(
        state=found["JobState"],
        reason=found.get("Reason", "None"),
        restarts=int(found.get("Restarts", "0")),
        exit_code=128 + int(number) if number not in ("", "0") else int(code),
        preempted=found.get("PreemptTime", "None") not in ("None", "Unknown"),
    )


def queued(name: str) -> list[QueuedJob]:
    """This user's jobs of a name that are not over, the newest last.

    Raises:
        DependencyError: nobody answers.
    """
    command = ["squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--format=%A|%T|%k"]
    lines = [line.split("|", 2) for line in ask(command).splitlines()]
    jobs = [QueuedJob(number=number.strip(), state=state, comment=comment) for number, state, comment in lines]
    return sorted(jobs, key=lambda job: int(job.number))


def accounted_exit_code(number: str) -> int | None:
    """What the site's accounting knows of a job that the controller has forgotten; None where there is no accounting,
    or it knows of no end."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={number}", "--format=State,ExitCode"]
    try:
        lines = ask(command).splitlines()
    except TunelineError:
        return None
    state, _, ends = lines[-1].partition("|") if lines else ("", "", "")
    code, _, signal_number = ends.partition(":")
    if not (code.isdecimal() and signal_number.isdecimal()) or state.split(" ")[0] in ("", "PENDING", "RUNNING"):
        return None
    if state == "OUT_OF_MEMORY":
        return ResourceError.exit_code
    if state.startswith("CANCELLED"):
        return 143
    told = 128 + int(signal_number) if int(signal_number) else int(code)
    return told if state == "COMPLETED" else told or 32


def end_margin_seconds() -> float:
    """How long the site takes from SIGTERM until it gives up on a process (30 + 60 s unless configured)."""
    try:
        shown = ask(["scontrol", "show", "config"])
    except TunelineError:
        shown = ""
    found = dict(re.findall(r"^(KillWait|UnkillableStepTimeout)\s*=\s*(\d+)", shown, re.MULTILINE))
    return float(found.get("KillWait", 30)) + float(found.get("UnkillableStepTimeout", 60)) + 10.0
