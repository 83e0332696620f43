"""What every launcher offers: start a gang of ranks, poll it, cancel it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tasks.foundation.values import Value


class GangJob(Value):
    """A gang of ranks that run one module with one argument file."""

    module: str
    """Python module, for example `tasks.training.worker`."""
    request: Path
    """JSON file that all ranks read."""
    ranks: int
    log: Path
    """File that gets the output of all ranks, appended."""
    devices: tuple[str, ...] = ()
    """Accelerators of this gang, as CUDA_VISIBLE_DEVICES takes them; empty on CPU."""
    threads_per_rank: int | None = None
    """OMP_NUM_THREADS of a rank; None leaves it to torch."""


class Gang(Protocol):
    """A started gang."""

    def poll(self) -> int | None:
        """Exit code of the whole gang, or None while it runs."""

    def cancel(self, grace_seconds: float) -> None:
        """SIGTERM to every rank, wait, then SIGKILL. When it returns no rank is alive."""


class Launcher(Protocol):
    """Starts gangs."""

    def start(self, job: GangJob) -> Gang:
        """Start all ranks.

        Raises:
            ResourceError: the machine has not what the job asks for.
        """
