"""The batch script's own process, on the first node: starts one agent per node, passes signals on, records the end.

- SIGUSR1: Slurm's warning before the time limit. The ranks save a checkpoint, and the job goes back into the queue.
- SIGUSR2: the pipeline cancels. The ranks save a checkpoint, and the job ends.
- SIGTERM: Slurm ends the job and has told the ranks already; it is only waited for them.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tasks.foundation.errors import CancelledRunError, DependencyError, TunelineError
from tasks.launch.failure import forget_failed_rank
from tasks.launch.launchers import _slurm_client as client
from tasks.launch.launchers._slurm_addresses import endpoint, free_port_near, reachable_addresses
from tasks.launch.launchers._slurm_exits import read_node_exits, verdict, write_exit
from tasks.launch.launchers._slurm_node import job_place
from tasks.launch.launchers._slurm_script import BatchPlan

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_AGAIN_SECONDS = 2.0
"""Between two tries to pass a signal on: there may be no step yet, or the controller does not answer."""
_FIRST_PORT, _PORTS = 20_000, 10_000
_CANCELLED = CancelledRunError.exit_code


class Batch:
    """One start of the job."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._plan = BatchPlan.model_validate_json(file.read_text(encoding="utf-8"))
        self._job, self._restart, _ = job_place()
        self._step = f"{self._job}.{self._restart % 2}"
        self._time_is_up = False
        self._is_cancelled = False
        self._told = False
        self._wanted = False
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def run(self) -> int:
        """Run all nodes to their end; returns the exit code of the gang."""
        forget_failed_rank(self._plan.job.request.parent)
        log.info("job %s, start %d, on %s", self._job, self._restart, os.environ.get("SLURM_JOB_NODELIST", ""))
        try:
            command = self._srun()
            self._pass_step_over()
            step = subprocess.Popen(command)
        except (TunelineError, OSError) as error:
            log.error("the job cannot start: %s", error)
            return self._ended(getattr(error, "exit_code", DependencyError.exit_code))
        tried = float("-inf")
        while step.poll() is None:
            if self._wanted and not self._told and time.monotonic() - tried > _AGAIN_SECONDS:
                tried, self._told = time.monotonic(), self._tell_ranks()
            time.sleep(_LOOK_SECONDS)
        nodes = self._plan.job.layout.nodes
        code = verdict(step.returncode, read_node_exits(self._folder, self._job, self._restart, nodes))
        return self._ended(code if code >= 0 else 128 - code)

    @property
    def _folder(self) -> Path:
        return self._plan.job.log.parent

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._time_is_up = self._time_is_up or number == signal.SIGUSR1
        self._is_cancelled = self._is_cancelled or number == signal.SIGUSR2
        self._wanted = self._wanted or number != signal.SIGTERM

    def _tell_ranks(self) -> bool:
        """SIGTERM, once, to every process of the step: a second one could break off the saving. False: not yet."""
        try:
            client.ask(["scontrol", "show", "step", self._step, "-o"])
            client.ask(["scancel", "--signal=TERM", self._step])
        except TunelineError as error:
            log.warning("the ranks cannot be told to end yet: %s", error)
            return False
        log.info("told the ranks to end")
        return True

    def _ended(self, code: int) -> int:
        """Record it, and go back into the queue where the time was up or the nodes are needed for something else."""
        write_exit(self._folder, self._job, self._restart, code)
        if code == _CANCELLED and not self._is_cancelled and (self._time_is_up or self._is_preempted()):
            if self._restart >= self._plan.max_requeues:
                log.error("the time is up, and this job was in the queue %d times already", self._restart + 1)
            else:
                self._requeue()
        return code

    def _is_preempted(self) -> bool:
        with suppress(TunelineError):
            seen = client.look(self._job)
            return seen is not None and seen.preempted
        return False

    def _requeue(self) -> None:
        try:
            client.ask(["scontrol", "requeue", self._job])
        except TunelineError as error:
            log.error("the job cannot go back into the queue: %s", error)
        else:
            log.info("back into the queue; it goes on from its checkpoint")

    def _pass_step_over(self) -> None:
        """Let every second start have another step number than the one before.

        A signal to a step on a node that had died is delivered when the node is back, and would hit its successor.
        """
        if self._restart % 2:
            subprocess.run(["srun", "--nodes=1", "--ntasks=1", "true"], check=False)

    def _srun(self) -> list[str]:
        addresses = reachable_addresses(node_names(os.environ["SLURM_JOB_NODELIST"]))
        port = free_port_near(_FIRST_PORT + int(self._job) % _PORTS, addresses[0])
        cores = os.environ.get("SLURM_CPUS_PER_TASK")
        return [
            *("srun", "--kill-on-bad-exit=1", "--label", "--export=ALL"),
            *(f"--nodes={len(addresses)}", f"--ntasks={len(addresses)}", "--ntasks-per-node=1"),
            *([f"--cpus-per-task={cores}"] if cores else []),
            *(sys.executable, "-m", "tasks.launch.launchers._slurm_node"),
            *(str(self._file), endpoint(addresses[0], port), ",".join(addresses)),
        ]


def node_names(listed: str) -> list[str]:
    """What Slurm has as the address of each node of a list, in the list's order."""
    names = client.ask(["scontrol", "show", "hostnames", listed]).split()
    shown = client.ask(["scontrol", "show", "node", ",".join(names), "-o"])
    found = re.findall(r"^NodeName=(\S+).*?\sNodeAddr=(\S+)", shown, re.MULTILINE)
    known = dict(found)
    return [known.get(name, name) for name in names]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s slurm: %(message)s")
    sys.exit(Batch(Path(sys.argv[1])).run())
