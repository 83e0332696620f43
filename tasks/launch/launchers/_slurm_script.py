"""What is handed to sbatch: options, environment and a script of one line. No shell ever reads a user's text."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.foundation.digests import digest_file, digest_text, digest_value
from tasks.foundation.values import Value
from tasks.launch.environment import rank_environment
from tasks.launch.protocol import GangJob

SCRIPT, PLAN = "slurm.sh", "slurm.json"
"""Beside the log."""

_LOCAL = re.compile(
    r"SLURM_.*|SBATCH_.*|SRUN_.*|SALLOC_.*|SQUEUE_.*|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL"
    r"|HOSTNAME|TMPDIR|XDG_.*|DBUS_.*|SSH_.*|DISPLAY|TERM|PWD|OLDPWD|SHLVL|_"
)
"""Variables that are about this machine or about another job, not about the work."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BatchPlan(Value):
    """slurm.json: what the batch script is to do."""

    job: GangJob
    max_requeues: int


class Submission(Value):
    """One call of sbatch."""

    command: tuple[str, ...]
    environment: dict[str, str]


def queue_name(job: GangJob) -> str:
    """The name in the queue: readable, and the same for nothing but this folder's job."""
    label = re.sub(r"[^A-Za-z0-9.]+", "-", job.name).strip("-")[:60]
    return f"{label}-{digest_text(str(job.request.absolute()))[:10]}"


def mark_of(options: tuple[str, ...], job: GangJob) -> str:
    """By the comment in the queue a job is recognised as one that was asked for the same, in the same way."""
    return f"tuneline-{digest_value([options, job.layout.model_dump(mode='json'), digest_file(job.request)])[:16]}"


def submission(job: GangJob, options: tuple[str, ...], environment: Mapping[str, str], here: Path) -> Submission:
    """The call of sbatch.

    Args:
        options: how the job is queued, as sbatch takes it.
        environment: of this process.
        here: working directory of the ranks.
    """
    exported = exported_environment(environment, job)
    log = str(job.log.absolute())
    command = (
        *("sbatch", "--parsable", *options),
        *(f"--job-name={queue_name(job)}", f"--comment={mark_of(options, job)}", f"--chdir={here}"),
        *(f"--output={escaped(log)}", "--open-mode=append"),
        f"--export={','.join(sorted(exported))}",
        str(job.log.absolute().with_name(SCRIPT)),
    )
    own = {name: environment[name] for name in ("SLURM_CONF",) if name in environment}
    return Submission(command=command, environment=exported | own)


def exported_environment(environment: Mapping[str, str], job: GangJob) -> dict[str, str]:
    """What the ranks get of this environment: no secrets, and nothing that is true only here."""
    ours = rank_environment(dict(environment), job)
    return {name: value for name, value in ours.items() if _VARIABLE.fullmatch(name) and not _LOCAL.fullmatch(name)}


def escaped(path: str) -> str:
    """A path in which sbatch sees no pattern (`%j`)."""
    return path.replace("\\", "\\\\").replace("%", "%%")


def write_script(plan: BatchPlan) -> None:
    """Put script and plan beside the log; the script goes on as Python, so every signal reaches that process."""
    log = plan.job.log.absolute()
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.with_name(PLAN)
    absolute = plan.job.model_copy(update={"request": plan.job.request.absolute(), "log": log})
    write_durably(file, plan.model_copy(update={"job": absolute}).model_dump_json(indent=2))
    line = shlex.join([sys.executable, "-m", "tasks.launch.launchers._slurm_batch", str(file)])
    write_durably(log.with_name(SCRIPT), f"#!/bin/sh\nexec {line}\n")
