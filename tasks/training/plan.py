"""From methods and seeds to cells."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tasks.artifacts.values import Artifact
from tasks.foundation.values import Value
from tasks.launch.layout import Layout
from tasks.methods import (
    Conditions,
    Method,
    Source,
    base_quantization,
    parse_method,
    refuse_quantization,
)
from tasks.models.values import BaseModel
from tasks.training.engines import refuse_engine, resolve_precision
from tasks.training.identity import Beside, cell_facts, fingerprint
from tasks.training.lineage import Resume
from tasks.training.settings import TrainingSettings
from tasks.training.starts import base_of
from tasks.training.values import Cell


class CellSpec(Value):
    """What the experiment says of one cell, before anything is digested."""

    label: str
    method: dict[str, Any]
    """The method's settings as they were written, with `kind`."""
    seed: int
    layout: Layout = Layout()
    sources: dict[str, Source] = Field(default_factory=dict)
    """What `Method.sources` names, found and digested."""
    experiment: str = ""
    """Name of the experiment."""
    resume: Resume = Resume()
    """Whether it must go on from an unfinished attempt."""


def plan_cell(
    spec: CellSpec, base: BaseModel, tokens: Artifact, training: TrainingSettings, conditions: Conditions
) -> Cell:
    """Resolve rates and steps, and name the cell by everything that decides its bytes.

    Raises:
        ConfigError: the method cannot work on this base under these settings, or from these sources; nothing has been
            loaded yet.
    """
    method = parse_method(spec.method)
    base = base_of(method, spec.sources, base)
    refuse_quantization(method, base.quantization)
    wanted = conditions.model_copy(update={"quantization": base_quantization(method, base.quantization)})
    method.check(base.facts, wanted)
    refuse_engine(method, training, spec.layout, wanted.quantization)
    resolved = resolve_precision(training, spec.layout)
    resolved = resolved.model_copy(update={"max_steps": method.max_steps or training.max_steps})
    settings = resolve_method(method, base, resolved)
    facts = cell_facts(base, tokens, settings, resolved, Beside(spec.seed, spec.layout, spec.sources))
    return Cell(
        label=spec.label,
        method=settings,
        seed=spec.seed,
        base=base,
        tokens=tokens,
        training=resolved,
        layout=spec.layout,
        sources=spec.sources,
        experiment=spec.experiment,
        fingerprint=fingerprint(facts),
    )


def resolve_method(method: Method, base: BaseModel, training: TrainingSettings) -> dict[str, Any]:
    """The method's settings with the rate and the decay that will be used, whoever set them."""
    settings = method.model_dump(mode="json")
    if method.holds != "nothing":
        rate = method.learning_rate or training.learning_rate or method.default_learning_rate(base.facts)
        settings |= {"learning_rate": rate, "weight_decay": method.decay(training.weight_decay)}
    return settings
