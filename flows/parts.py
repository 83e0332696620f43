"""From an experiment to the arguments of its steps. No step receives the whole experiment."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefect.runtime import deployment, flow_run

from configs.checks import validate
from configs.choices import experiment_file
from configs.engines import deepspeed_of
from configs.experiment import Experiment, Paths, cell_labels, with_environment
from configs.loading import experiment_of, load_experiment
from configs.one_cell import OneCell, document_of
from configs.overrides import override_texts
from flows.secrets import refuse_secrets
from tasks.compare import Yardstick
from tasks.comparison.values import MetricColumn
from tasks.evaluation.exam import Exam
from tasks.launch import Layout
from tasks.launch.slots import accelerators
from tasks.methods import Conditions, parse_method
from tasks.metrics import Metric, all_metrics
from tasks.plan import Material
from tasks.records import CellOutcome, ChampionCell, Context, base_probe_loss, context
from tasks.records.winner import Registration
from tasks.training.lineage import Resume
from tasks.training.plan import CellSpec
from tasks.workspace import Workspace
from tasks.workspace.session import Opening


class Compared(NamedTuple):
    """All that sat the same exam."""

    outcomes: Sequence[CellOutcome]
    champion: ChampionCell | None
    """None where nothing is registered."""


BASE_LABEL = "base"
"""The untuned base, without a hard prompt, stands in every comparison: it is what the others are measured against."""


def load_settings(experiment: str, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of a file with overrides and this environment's defaults.

    Raises:
        ConfigError: it is wrong, or an override typed into Prefect's page holds a password.
    """
    texts = checked_texts(overrides)
    return _startable(with_environment(load_experiment(experiment_file(experiment), texts), os.environ))


def one_cell_settings(cell: OneCell, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of one method.

    Raises:
        ConfigError: an argument or an override is wrong, or an override holds a password.
    """
    return _startable(with_environment(experiment_of(document_of(cell), checked_texts(overrides)), os.environ))


def checked_texts(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides of Prefect's form as those of the command line.

    Raises:
        ConfigError: one holds a password, or its key is none.
    """
    texts = override_texts(overrides)
    refuse_secrets(texts)
    return texts


def _startable(settings: Experiment) -> Experiment:
    """What the command line has looked at by now, and a worker has not: data, base, disk."""
    if deployment.id and (problems := validate(settings, rows=False)):
        raise problems[0]
    return settings


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
    return Yardstick(name=settings.name, columns=columns, metric=_deciding(settings).headline)


def _deciding(settings: Experiment) -> type[Metric]:
    """The metric that names the winner; the experiment may name it by itself or by its headline."""
    metrics = [all_metrics()[name] for name in settings.evaluation.metrics]
    named = settings.registry.metric
    return next((metric for metric in metrics if named in (metric.name, metric.headline)), metrics[0])


def registration_of(
    settings: Experiment, winner: CellOutcome, compared: Compared, material: Material, shared: Context
) -> Registration:
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
        metric=_deciding(settings).name,
        base_probe_loss=base_probe_loss(compared.outcomes),
        champion=compared.champion or ChampionCell(),
    )
