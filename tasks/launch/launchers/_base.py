"""The one shape of every launcher: the settings of section `distributed`, and how a gang is started."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.foundation.errors import ResourceError
from tasks.foundation.values import Settings
from tasks.launch.layout import Device, Layout
from tasks.launch.protocol import Gang, GangJob


class StallSettings(Settings):
    """Seconds without any progress of a rank after which the run ends as hung (31), per phase of the worker."""

    loading: float = Field(default=1800.0, gt=0)
    """Imports, meeting the other ranks, the base model. Of the steps without ranks (data, merge, registration): time
    without computing, reading or writing."""
    training: float = Field(default=600.0, gt=0)
    """One micro-step."""
    evaluating: float = Field(default=600.0, gt=0)
    """One batch of the evaluation."""
    saving: float = Field(default=900.0, gt=0)
    """One checkpoint."""
    finishing: float = Field(default=1800.0, gt=0)
    """Writing the weights."""


class Launcher(Settings):
    """What all launchers have in common. One is a public file in this package with one class below this one."""

    launcher: str
    ranks_per_node: int = Field(default=1, gt=0)
    """Processes of one cell on each node; on GPU machines one per accelerator."""
    strategy: str = "ddp"
    """`ddp`, `fsdp2`, a shipped DeepSpeed configuration (`zero0`, `zero1`, `zero2`, `zero3`, `zero2-offload`,
    `zero3-offload`), or a DeepSpeed configuration of your own (`….json`, relative to the working directory)."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """What ranks compute on; `auto` is what this machine has. A rank never falls back to another one."""
    parallel_cells: int | None = Field(default=None, gt=0)
    """Cells side by side; when absent, as many as cores (CPU) or accelerators allow."""
    max_restarts: int = Field(default=1, ge=0)
    """How often a gang whose rank died or hung starts again by itself, from its last checkpoint."""
    stall_seconds: StallSettings = StallSettings()
    """Watching for hangs: progress counts, not life."""

    @property
    def node_count(self) -> int:
        """Nodes of one gang."""
        return 1

    @property
    def ranks_here(self) -> int:
        """Ranks of one cell on this machine."""
        return self.ranks_per_node

    def layout(self, deepspeed: dict[str, object] | None, *, accelerators: bool) -> Layout:
        """The gang of one cell.

        Args:
            deepspeed: the configuration that `strategy` names, where it names one.
            accelerators: whether this machine has any.
        """
        device: Device = self.accelerator if self.accelerator != "auto" else "cuda" if accelerators else "cpu"
        return Layout(
            nodes=self.node_count,
            ranks_per_node=self.ranks_per_node,
            engine="deepspeed" if deepspeed is not None else "fsdp2" if self.strategy == "fsdp2" else "ddp",
            deepspeed=deepspeed,
            device=device,
        )

    def slot_groups(self, devices: tuple[str, ...], cores: int) -> tuple[tuple[str, ...], ...]:
        """The accelerators of each cell that works at the same time, on this machine; empty groups on a CPU.

        Raises:
            ResourceError: a cell wants more accelerators than there are, or some where there are none.
        """
        ranks = self.ranks_per_node
        devices = () if self.accelerator == "cpu" else devices
        if (devices or self.accelerator == "cuda") and ranks > len(devices):
            raise ResourceError(
                f"{ranks} ranks were asked for and {len(devices)} accelerators are here",
                where="distributed.ranks_per_node",
                fix=f"Set it to at most {len(devices)}" if devices else "Set distributed.accelerator: cpu",
            )
        fitting = max((len(devices) or cores) // ranks, 1)
        count = min(self.parallel_cells or fitting, fitting) if devices else (self.parallel_cells or fitting)
        return tuple(devices[i * ranks : (i + 1) * ranks] for i in range(count))

    def is_running(self, job: GangJob) -> bool:
        """Whether a gang of this very request still works or waits, which an earlier pipeline process has started.

        The request's file is left as it is then, its attempt too, and `start` takes that gang up.
        """
        return False

    def start(self, job: GangJob) -> Gang:
        """Start all ranks.

        Raises:
            ResourceError: there is not what the job asks for.
            DependencyError: the scheduler cannot be reached.
        """
        raise NotImplementedError
