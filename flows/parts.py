"""From an experiment to the arguments of its steps. No step receives the whole experiment."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from configs.engines import deepspeed_of
from configs.experiment import Experiment, Paths, cell_labels, with_environment
from configs.loading import load_experiment
from flows.secrets import refuse_secrets
from tasks.compare import Yardstick
from tasks.comparison.values import MetricColumn
from tasks.evaluation.exam import Exam
from tasks.launch import Layout
from tasks.launch.slots import accelerators
from tasks.methods import Conditions, parse_method
from tasks.metrics import all_metrics
from tasks.plan import Material
from tasks.records import CellOutcome, Context, context
from tasks.records.winner import Registration
from tasks.training.lineage import Resume
from tasks.training.plan import CellSpec
from tasks.workspace import Workspace
from tasks.workspace.session import Opening

BASE_LABEL = "base"
"""The untuned base, without a hard prompt, stands in every comparison: it is what the others are measured against."""


def load_settings(experiment: str, overrides: Sequence[str]) -> Experiment:
    """The experiment of a file with overrides and this environment's defaults.

    Raises:
        ConfigError: it is wrong, or an override typed into Prefect's page holds a password.
    """
    refuse_secrets(overrides)
    return with_environment(load_experiment(Path(experiment), overrides), os.environ)


def workspace() -> Workspace:
    """The `runs` folder of this environment."""
    return Workspace(runs=Paths.from_environment(os.environ).runs.absolute())


def opening_of(settings: Experiment, flow: str) -> Opening:
    """What the session needs to know."""
    return Opening(name=settings.name, flow=flow, tracking=settings.tracking, distributed=settings.distributed)


def context_of(settings: Experiment) -> Context:
    """What all runs of the comparison have in common."""
    experiment = settings.tracking.experiment or settings.name
    return context(experiment, settings.model_dump(mode="json"), flow_run.ui_url or "")


def specs_of(settings: Experiment, resume: Resume) -> tuple[CellSpec, ...]:
    """The untuned base once, then every method with every seed."""
    shared: dict[str, Any] = {"experiment": settings.name, "resume": resume, "layout": layout_of(settings)}
    trained = [method for method in settings.methods if method.holds != "nothing"]
    untrained = [method for method in settings.methods if method.holds == "nothing"]
    if not any(method.prompting() is None for method in untrained):
        untrained = [parse_method({"kind": "none", "name": BASE_LABEL}), *untrained]
    labels = cell_labels([*untrained, *trained], [settings.training.seeds[0]])[: len(untrained)]
    specs = [
        CellSpec(label=label, method=method.model_dump(mode="json"), seed=settings.training.seeds[0])
        for label, method in zip(labels, untrained, strict=True)
    ]
    cells = itertools.product(trained, settings.training.seeds)
    for label, (method, seed) in zip(cell_labels(trained, settings.training.seeds), cells, strict=True):
        specs.append(CellSpec(label=label, method=method.model_dump(mode="json"), seed=seed, **shared))
    return tuple(specs)


def layout_of(settings: Experiment) -> Layout:
    """The gang of every cell."""
    deepspeed = deepspeed_of(settings.distributed, settings.training)
    return settings.distributed.layout(deepspeed, accelerators=bool(accelerators()))


def conditions_of(settings: Experiment) -> Conditions:
    """What a method may have to refuse."""
    return Conditions(
        gradient_checkpointing=settings.training.gradient_checkpointing,
        packing=settings.data.packing,
        max_seq_length=settings.data.max_seq_length,
    )


def exam_of(settings: Experiment, material: Material) -> Exam:
    """The exam that every candidate sits."""
    return Exam(prepared=material.prepared, tokens=material.tokens, settings=settings.evaluation, data=settings.data)


def yardstick_of(settings: Experiment) -> Yardstick:
    """Columns of the table and the metric that decides; a metric stands in it with its headline."""
    metrics = [all_metrics()[name] for name in settings.evaluation.metrics]
    columns = tuple(MetricColumn(name=m.headline, higher_is_better=m.higher_is_better) for m in metrics)
    named = settings.registry.metric
    metric = all_metrics()[named].headline if named in all_metrics() else named
    return Yardstick(name=settings.name, columns=columns, metric=metric or columns[0].name)


def registration_of(settings: Experiment, winner: CellOutcome, material: Material, shared: Context) -> Registration:
    """The winner with everything that leads back from it."""
    return Registration(
        name=settings.name,
        settings=settings.registry,
        tracking=settings.tracking,
        winner=winner,
        prepared=material.prepared,
        data=settings.data,
        max_new_tokens=settings.evaluation.max_new_tokens,
        context=shared,
    )
