"""One node of a job: `srun … python -m tasks.launch.launchers._slurm_node slurm.json <endpoint> <address,address,…>`.

It tells the collectives which interface to use, and runs our agent, which runs torchrun and its ranks. Whether the
kernel killed one of them for lack of memory can be seen here only: to srun it is a process that ended with 1.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

from tasks.foundation.errors import ResourceError
from tasks.launch.agent import main as run_agent
from tasks.launch.invitations import variables
from tasks.launch.kills import killed_since, kills_so_far
from tasks.launch.launchers._slurm_addresses import own_address
from tasks.launch.launchers._slurm_exits import write_node_exit
from tasks.launch.launchers._slurm_script import BatchPlan
from tasks.launch.protocol import GangJob

_MEETING_SECONDS = 900
"""How far apart the nodes may be in their imports, on a file system that is slow at first."""

_KILLED = 128 + signal.SIGKILL


def main(arguments: list[str]) -> int:
    """Run this node's ranks to their end, and record how that was."""
    faulthandler.register(signal.SIGUSR1)  # asked for stacks while this still imports
    file, endpoint, listed = arguments
    plan = BatchPlan.model_validate_json(Path(file).read_text(encoding="utf-8"))
    job, restart, node = job_place()
    own = own_address(listed.split(","), node)
    for name, interface in variables(own).items():
        os.environ.setdefault(name, interface)  # an interface that the user named stands
    before = kills_so_far()
    code = run_agent(agent_arguments(plan.job, (f"{job}.{restart}", endpoint), own, is_host=node == 0))
    if code == _KILLED and killed_since(before):
        code = ResourceError.exit_code
    write_node_exit(plan.job.log.parent, job, restart, node, code)
    return code


def agent_arguments(job: GangJob, meeting: tuple[str, str], own: str, *, is_host: bool) -> list[str]:
    """torchrun's arguments; `meeting` is the id of this start of the job, and where its nodes meet."""
    store = f"is_host={int(is_host)},join_timeout={_MEETING_SECONDS},read_timeout={_MEETING_SECONDS}"
    return [
        *(f"--nnodes={job.layout.nodes}", f"--nproc-per-node={job.layout.ranks_per_node}", "--max-restarts=0"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={meeting[1]}", f"--rdzv-id={meeting[0]}", f"--rdzv-conf={store}"),
        *(f"--local-addr={own}", "-m", job.module, str(job.request)),
    ]


def job_place() -> tuple[str, int, int]:
    """Job, restart and node, as Slurm tells a process."""
    seen = os.environ
    return seen["SLURM_JOB_ID"], int(seen.get("SLURM_RESTART_COUNT") or 0), int(seen.get("SLURM_NODEID") or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
