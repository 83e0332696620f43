"""Cells under each engine, on ranks of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401 - once, before ranks are forked

from tasks.artifacts import Artifact
from tasks.launch import Layout
from tasks.methods import Conditions, parse_method
from tasks.models.values import BaseModel
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell
from tests.methods.sources import sources_of
from tests.training.worlds import QUICK

SHIPPED = Path(__file__).parents[2] / "configs" / "deepspeed"


def layout_of(strategy: str, ranks: int) -> Layout:
    """What `distributed.strategy` makes of a name, on CPUs."""
    if strategy in ("ddp", "fsdp2"):
        return Layout(ranks_per_node=ranks, engine=strategy)
    config = json.loads((SHIPPED / f"{strategy}.json").read_text(encoding="utf-8"))
    return Layout(ranks_per_node=ranks, engine="deepspeed", deepspeed=config)


def cell_on(
    layout: Layout, base: BaseModel, tokens: Artifact, method: dict[str, Any], training: TrainingSettings = QUICK
) -> Cell:
    conditions = Conditions(gradient_checkpointing=training.gradient_checkpointing, packing=False, max_seq_length=16)
    sources = sources_of(parse_method(method), base)
    spec = CellSpec(label=str(method["kind"]), method=method, seed=0, layout=layout, sources=sources)
    return plan_cell(spec, base, tokens, training, conditions)
