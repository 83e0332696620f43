"""How many ranks there are, where, and under which engine: with the settings it decides the trained bytes."""

from __future__ import annotations

from typing import Any, Literal

from tasks.foundation.values import Value

Engine = Literal["ddp", "deepspeed", "fsdp2"]
Device = Literal["cpu", "cuda"]


class Layout(Value):
    """The gang of one cell, as far as it decides what is trained."""

    nodes: int = 1
    ranks_per_node: int = 1
    engine: Engine = "ddp"
    deepspeed: dict[str, Any] | None = None
    """DeepSpeed's configuration with its "auto" values, where `engine` is `deepspeed`."""
    device: Device = "cpu"
    """What every rank must have; a rank that has not ends with ResourceError instead of computing elsewhere."""

    @property
    def ranks(self) -> int:
        """World size."""
        return self.nodes * self.ranks_per_node

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's ZeRO stage; 0 without DeepSpeed."""
        return int((self.deepspeed or {}).get("zero_optimization", {}).get("stage", 0))
