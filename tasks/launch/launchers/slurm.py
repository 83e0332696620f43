"""Ranks on the nodes of a Slurm cluster."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.foundation.errors import DependencyError
from tasks.launch.launchers import _slurm_client as client
from tasks.launch.launchers._base import Launcher
from tasks.launch.launchers._slurm_client import QueuedJob
from tasks.launch.launchers._slurm_gang import SlurmGang
from tasks.launch.launchers._slurm_script import BatchPlan, mark_of, queue_name, submission, write_script
from tasks.launch.layout import Layout
from tasks.launch.protocol import GangJob

log = logging.getLogger(__name__)

Word = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f-][^\s\x00-\x1f]*$", coerce_numbers_to_str=True)]
"""The value of an option; YAML reads some of them as numbers."""

_OURS = (
    "account", "array", "chdir", "cluster-constraint", "clusters", "comment", "error", "export", "export-file",
    "get-user-env", "gres", "help", "hold", "input", "job-name", "kill-on-invalid-dep", "no-requeue", "nodes",
    "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "partition", "quiet", "requeue", "signal",
    "test-only", "time", "usage", "verbose", "version", "wait", "wrap",
)  # fmt: skip
"""Options that have a key of their own, or on which the launcher relies."""

_CORES = {"cpus-per-task", "cpus-per-gpu"}
"""Options that say how many cores a task gets, as `tres-per-task` may; Slurm takes one of them only."""
_CELLS = 4
"""Gangs in the queue at a time: the scheduler decides what runs, and other people have jobs too."""
_SETTLE_SECONDS, _SETTLE_LOOK_SECONDS = 120.0, 1.0
"""How long an earlier job may take on its way out, and how often it is looked at."""
_LATE_SECONDS = 15.0
"""How long it is looked for a job whose submission was not answered."""


class SlurmLauncher(Launcher):
    """`slurm`: torchrun on the nodes of one batch job, with the `runs` folder on a file system that all of them share.

    The job outlives the pipeline: a pipeline that was killed and is started again finds it and goes on watching.
    """

    launcher: Literal["slurm"] = "slurm"
    nodes: int = Field(default=1, gt=0)
    """Nodes of one gang."""
    partition: Word | None = None
    """Partition; the site's default when absent."""
    time: Word | None = None
    """Time limit of one job: minutes, `H:MM:SS`, `D-HH`, `D-HH:MM:SS`. When it is up, the job saves a checkpoint, goes
    back into the queue and goes on later."""
    gres: Word | None = None
    """Generic resources per node, for example `gpu:8`."""
    account: Word | None = None
    """Whom the site charges."""
    warning_seconds: int = Field(default=180, gt=0)
    """How long before the time limit it saves and ends; Slurm's clock may be up to 60 s early."""
    max_requeues: int = Field(default=100, ge=0)
    """How often a job goes on after a time limit, a preemption or a node failure, before that is the end."""
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further options of sbatch by their long names: `{qos: high, mem: 64G, exclusive: true}`."""

    @property
    def node_count(self) -> int:
        return self.nodes

    @property
    def asks_for_gpus(self) -> bool:
        """Whether the nodes will have accelerators."""
        by_name = any(name.startswith("gpus") for name in self.sbatch)
        by_value = any("gpu" in str(value) for name, value in self.sbatch.items() if name.startswith("tres-per"))
        return "gpu" in (self.gres or "") or by_name or by_value

    @field_validator("time")
    @classmethod
    def _known_time(cls, time: str | None) -> str | None:
        if time is not None:
            limit_seconds(time)
        return time

    @field_validator("sbatch")
    @classmethod
    def _known_options(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name, value in options.items():
            if not re.fullmatch(r"[a-z][a-z-]+", name):
                raise ValueError(f"sbatch: {name!r} is no long option; give its name without dashes, like mem or qos")
            if taken := [ours for ours in _OURS if ours.startswith(name)]:
                raise ValueError(f"sbatch: {name} would change --{taken[0]}, which tuneline sets itself")
            if re.search(r"[\x00-\x1f\x7f]", str(value)):
                raise ValueError(f"sbatch: the value of {name} holds a control character")
        return options

    @model_validator(mode="after")
    def _time_to_save(self) -> SlurmLauncher:
        limit = limit_seconds(self.time) if self.time else None
        if limit is not None and limit <= self.warning_seconds:
            raise ValueError(
                f"warning_seconds: {self.warning_seconds} leaves nothing of time: {self.time} ({limit} s); lower it"
            )
        return self

    def layout(self, deepspeed: dict[str, object] | None, *, accelerators: bool) -> Layout:
        """With `accelerator: auto`, ranks compute on what the job asks for: this machine's own do not matter."""
        return super().layout(deepspeed, accelerators=self.asks_for_gpus)

    @property
    def ranks_here(self) -> int:
        """None: Slurm counts them."""
        return 0

    def slot_groups(self, devices: tuple[str, ...], cores: int) -> tuple[tuple[str, ...], ...]:
        """No accelerators of this machine."""
        return ((),) * (self.parallel_cells or _CELLS)

    def is_running(self, job: GangJob) -> bool:
        return self._same(job, settled_jobs(queue_name(job))) is not None

    def start(self, job: GangJob) -> SlurmGang:
        """Submit one job for the whole gang, or take up the one that an earlier pipeline submitted in the same way.

        A job of this folder that is another one is ended first: two must never write there.

        Raises:
            ConfigError, ResourceError: Slurm does not take it.
            DependencyError: Slurm cannot be reached.
        """
        found = settled_jobs(queue_name(job))
        if (same := self._same(job, found)) is not None:
            log.warning("job %s is still there; going on with it", same)
            return self._gang(same, job)
        for earlier in found:
            log.warning("ending job %s, which was asked for in another way", earlier.number)
            self._gang(earlier.number, job).cancel(self.warning_seconds)
        write_script(BatchPlan(job=job, max_requeues=self.max_requeues))
        asked = submission(job, self._options(job), os.environ, Path.cwd())
        try:
            number = client.submit(asked.command, asked.environment)
        except DependencyError as silence:
            number = self._taken_in_silence(job, silence)
        log.info("submitted job %s", number)
        return self._gang(number, job)

    def _taken_in_silence(self, job: GangJob, silence: DependencyError) -> str:
        """The job that a busy controller took although its answer came too late for sbatch.

        Raises:
            DependencyError: there is none, or nobody answers that either; a job that comes later is taken up by the
                next start.
        """
        deadline = time.monotonic() + _LATE_SECONDS
        while time.monotonic() < deadline:
            try:
                found = self._same(job, client.queued(queue_name(job)))
            except DependencyError:
                break
            if found is not None:
                return found
            time.sleep(_SETTLE_LOOK_SECONDS)
        fix = f"Ask `sinfo`; then run it again: it takes up the job, should `squeue --name={queue_name(job)}` show one"
        raise DependencyError(silence.what, fix=fix) from silence

    def _same(self, job: GangJob, found: list[QueuedJob]) -> str | None:
        mark = mark_of(self._options(job), job)
        return next((one.number for one in found if one.comment == mark), None)

    def _gang(self, number: str, job: GangJob) -> SlurmGang:
        return SlurmGang(number, job.log.absolute().parent, self.max_requeues)

    def _options(self, job: GangJob) -> tuple[str, ...]:
        """The user's own first: of two equal ones sbatch takes the last.

        An option that wants a value and got `true` takes the next word for one: that is never an option of ours.
        """
        given = [(f"--{name}", value) for name, value in sorted(self.sbatch.items()) if value is not False]
        own = [
            word for name, value in given for word in ((name, "--parsable") if value is True else (f"{name}={value}",))
        ]
        says_cores = _CORES & self.sbatch.keys() or "cpu" in str(self.sbatch.get("tres-per-task"))
        if not says_cores:  # otherwise all ranks of a node would share one core
            own.append(f"--cpus-per-task={self.ranks_per_node * (job.threads_per_rank or 1)}")
        named = {"partition": self.partition, "time": self.time, "gres": self.gres, "account": self.account}
        return (
            *own,
            *(f"--{name}={value}" for name, value in named.items() if value is not None),
            *(f"--nodes={self.nodes}", "--ntasks-per-node=1", "--requeue", f"--signal=B:USR1@{self.warning_seconds}"),
            "--kill-on-invalid-dep=yes",
        )


def limit_seconds(time: str) -> int | None:
    """Slurm's notation of a time limit in seconds; None for no limit.

    Raises:
        ValueError: it is none.
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = re.fullmatch(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})", time)
    if match is None:
        raise ValueError(f'time: {time!r} is no time limit; write minutes, "H:MM:SS" or "D-HH:MM:SS"')
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"] is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = ((0, parts[0], 0), (0, *parts), tuple(parts))[len(parts) - 1]  # M, MM:SS, HH:MM:SS
    return (hours * 60 + minutes) * 60 + seconds


def settled_jobs(name: str) -> list[QueuedJob]:
    """Jobs of a name that wait or run, once none is on its way out or back into the queue.

    Raises:
        DependencyError: nobody answers, or it takes for ever.
    """
    found = client.queued(name)
    deadline = time.monotonic() + _SETTLE_SECONDS
    while any(job.state == "COMPLETING" for job in found):
        if time.monotonic() > deadline:
            fix = (
                "A node does not let go of it: tell the site's operators, and run this again when `squeue` has lost it"
            )
            raise DependencyError("an earlier job does not come to its end", where=f"job {found[0].number}", fix=fix)
        time.sleep(_SETTLE_LOOK_SECONDS)
        found = client.queued(name)
    return found
