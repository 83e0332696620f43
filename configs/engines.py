"""DeepSpeed configurations: the shipped ones by name, your own by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "deepspeed"


def read_deepspeed(strategy: str) -> dict[str, Any] | None:
    """The configuration that `distributed.strategy` names, "auto" values kept; None for `ddp` and `fsdp2`."""
    if strategy in ("ddp", "fsdp2"):
        return None
    path = Path(strategy) if strategy.endswith(".json") else SHIPPED / f"{strategy}.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
