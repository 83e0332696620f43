"""What a launcher is asked for, and what it hands back."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tasks.foundation.values import Value
from tasks.launch.layout import Layout


class GangJob(Value):
    """A gang of ranks that run one module with one argument file."""

    module: str
    """Python module, for example `tasks.training.worker`."""
    request: Path
    """JSON file that all ranks read; on several nodes it lies on a shared file system."""
    layout: Layout = Layout()
    name: str = "tuneline"
    """What a scheduler's queue shows."""
    log: Path
    """File that gets the output of all ranks, appended; files of a launcher's own lie beside it."""
    devices: tuple[str, ...] = ()
    """Accelerators of this gang, as CUDA_VISIBLE_DEVICES takes them; empty on CPU, and where a scheduler decides."""
    threads_per_rank: int | None = None
    """OMP_NUM_THREADS of a rank; None leaves it to torch."""

    @property
    def ranks(self) -> int:
        """World size."""
        return self.layout.ranks


class Gang(Protocol):
    """A started gang."""

    def poll(self) -> int | None:
        """Exit code of the whole gang, or None while it runs, waits in a queue, or cannot be asked about."""

    def status(self) -> str:
        """What a person should know while it is not running: a queue's state and reason; empty otherwise."""

    def dump_stacks(self) -> None:
        """Have every rank write the stacks of its threads into the log (SIGUSR1)."""

    def cancel(self, grace_seconds: float) -> None:
        """SIGTERM to every rank, wait, then SIGKILL. When it returns no rank is alive."""
