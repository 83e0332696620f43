"""The experiment: sections put together, and the few rules that no section can check alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from configs.document import KeyPath
from configs.engines import unknown_strategy
from configs.registry_rules import registry_rules
from configs.rules import BrokenRule, BrokenRulesError
from configs.schema import method_kinds
from configs.wording import listed, nearest, shown
from tasks.data.settings import DataSettings
from tasks.evaluation.settings import EvaluationSettings
from tasks.foundation.errors import TunelineError
from tasks.foundation.values import Settings, Value
from tasks.launch import Launcher, all_launchers, parse_launcher
from tasks.merging.settings import MergeSettings
from tasks.methods import Method, parse_method
from tasks.metrics import all_metrics
from tasks.models.settings import ModelSettings
from tasks.registry.settings import RegistrySettings
from tasks.tracking.settings import TrackingSettings
from tasks.training.settings import TrainingSettings

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
NAME_LENGTH = 64


def _parse_method(entry: Any) -> Any:
    if isinstance(entry, Method):
        return entry
    if not isinstance(entry, Mapping):
        raise BrokenRulesError([_not_a_method(entry)])
    kind, known = entry.get("kind"), method_kinds()
    if kind not in list(known):
        close = nearest(kind, known) if isinstance(kind, str) else ""
        what = "is missing" if kind is None else f"no method {shown(kind)}"
        fix = f"Did you mean {close}?" if close else "`tuneline methods` says what each one does"
        raise BrokenRulesError([BrokenRule(path=("kind",), what=what, allowed=listed(known), fix=fix)])
    try:
        return parse_method(entry)
    except TunelineError as error:
        if isinstance(error.__cause__, ValidationError):
            raise error.__cause__ from error  # pydantic takes over every problem, with its place
        rule = BrokenRule(path=("kind",), what=error.what, allowed=error.allowed, fix=error.fix)
        raise BrokenRulesError([rule]) from error


def _not_a_method(entry: Any) -> BrokenRule:
    fix = f"Write {{kind: {entry}}}" if isinstance(entry, str) and entry.isidentifier() else "Write {kind: lora}"
    return BrokenRule(path=(), what=f"{shown(entry)} is not a mapping with a kind", fix=fix)


def _named_sources(data: DataSettings) -> DataSettings:
    fix = "Name a file, or a list of {path: …}"
    broken = [
        BrokenRule(path=(key,), what=f"{shown(value)} names no rows", fix=fix)
        for key, value in (("train", data.train), ("eval", data.eval))
        if value is not None and len(value) == 0
    ]
    if broken:
        raise BrokenRulesError(broken)
    return data


def _known_metrics(evaluation: EvaluationSettings) -> EvaluationSettings:
    broken = [*_unknown_names("metrics", evaluation.metrics), *_unknown_names("size_metrics", evaluation.size_metrics)]
    if broken:
        raise BrokenRulesError(broken)
    return evaluation


def _unknown_names(key: str, names: Sequence[str]) -> Iterator[BrokenRule]:
    known = all_metrics()
    for index, name in enumerate(names):
        path: KeyPath = (key, index)
        if name not in known:
            close = nearest(name, known)
            fix = f"Did you mean {close}?" if close else ""
            yield BrokenRule(path=path, what=f"no metric {shown(name)}", allowed=listed(known), fix=fix)
        elif name in names[:index]:
            yield BrokenRule(path=path, what=f"{shown(name)} stands twice", fix="Keep one")


AnyMethod = Annotated[SerializeAsAny[Method], BeforeValidator(_parse_method)]
"""A method of whichever kind; `kind` names it."""


def _parse_launcher(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    name, known = entry.get("launcher", "local"), all_launchers()
    if name not in list(known):
        close = nearest(name, known) if isinstance(name, str) else ""
        fix = f"Did you mean {close}?" if close else "local is this machine"
        what = f"no launcher {shown(name)}"
        raise BrokenRulesError([BrokenRule(path=("launcher",), what=what, allowed=listed(known), fix=fix)])
    return parse_launcher(entry)


AnyLauncher = Annotated[SerializeAsAny[Launcher], BeforeValidator(_parse_launcher)]
"""Where ranks run; `launcher` names it."""


class Experiment(Settings):
    """One file: a model, data, and the methods to compare on them."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=NAME_LENGTH)]
    """Names runs and the MLflow experiment; when absent, the file's name without its suffix."""
    model: ModelSettings
    """The base model."""
    data: Annotated[DataSettings, AfterValidator(_named_sources)]
    """What is read, and how rows become tokens."""
    methods: Annotated[tuple[AnyMethod, ...], Field(min_length=1)]
    """The fine-tuning methods to compare; `tuneline methods` lists them."""
    training: TrainingSettings = TrainingSettings()
    """How every cell trains."""
    distributed: AnyLauncher = parse_launcher({})
    """Where ranks run, and how many."""
    evaluation: Annotated[EvaluationSettings, AfterValidator(_known_metrics)] = EvaluationSettings()
    """What is measured on the held-out rows."""
    merge: MergeSettings = MergeSettings()
    """Merging and its proof."""
    tracking: TrackingSettings = TrackingSettings()
    """Where runs are recorded."""
    registry: RegistrySettings = RegistrySettings()
    """Registration of the winner."""

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """A section whose keys are all commented out holds nothing: its defaults are meant."""
        if not isinstance(data, Mapping):
            return data
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: part for name, part in data.items() if part is not None or name not in optional}

    @model_validator(mode="after")
    def _rules(self) -> Experiment:
        broken = [
            *_attention_rules(self),
            *_schedule_rules(self.training),
            *registry_rules(self.registry, self.evaluation, self.methods),
        ]
        broken += [*_strategy_rules(self.distributed), *_size_rules(self)]
        if broken:
            raise BrokenRulesError(broken)
        return self


def cell_labels(methods: Sequence[Method], seeds: Sequence[int]) -> tuple[str, ...]:
    """One distinct label per cell, in the order of `itertools.product(methods, seeds)`.

    The second `lora` becomes `lora-2`; with several seeds `lora seed 0`, `lora seed 1`.
    """
    names = _distinct([method.label for method in methods])
    cells = itertools.product(names, seeds)
    return tuple(name if len(seeds) == 1 else f"{name} seed {seed}" for name, seed in cells)


def _distinct(names: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    found = []
    for name in names:
        counts[name] += 1
        label = name if counts[name] == 1 else f"{name}-{counts[name]}"
        while label in taken or (label != name and label in names):
            counts[name] += 1
            label = f"{name}-{counts[name]}"
        taken.add(label)
        found.append(label)
    return found


class Paths(Value):
    """Where things lie on this machine; never part of what an experiment is."""

    runs: Path
    """Artifacts, checkpoints, journals, logs."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Paths:
        """`TUNELINE_RUNS`, or `runs` in the working directory."""
        return cls(runs=Path(environment.get("TUNELINE_RUNS") or "runs"))


def with_environment(experiment: Experiment, environment: Mapping[str, str]) -> Experiment:
    """MLFLOW_TRACKING_URI decides where an experiment that sets no `tracking.uri` is recorded."""
    uri = environment.get("MLFLOW_TRACKING_URI")
    if not uri or "uri" in experiment.tracking.model_fields_set:
        return experiment
    return experiment.model_copy(update={"tracking": experiment.tracking.model_copy(update={"uri": uri})})


def _strategy_rules(distributed: Launcher) -> Iterator[BrokenRule]:
    """A name that means nothing; files are looked at by `configs.checks`."""
    if (error := unknown_strategy(distributed.strategy)) is not None:
        yield BrokenRule(path=("distributed", "strategy"), what=error.what, allowed=error.allowed, fix=error.fix)


def _schedule_rules(training: TrainingSettings) -> Iterator[BrokenRule]:
    """No setting that somebody wrote is ignored."""
    if (
        training.lr_scheduler_type == "constant"
        and training.warmup_ratio
        and "warmup_ratio" in training.model_fields_set
    ):
        what = "the schedule constant has no warm-up"
        fix = "Set training.lr_scheduler_type: constant_with_warmup, or leave warmup_ratio out"
        yield BrokenRule(path=("training", "warmup_ratio"), what=what, fix=fix)


def _size_rules(experiment: Experiment) -> Iterator[BrokenRule]:
    """No setting that somebody wrote is ignored."""
    wanted = experiment.evaluation.size_metrics
    usual = EvaluationSettings.model_fields["size_metrics"].default
    if wanted != usual and not any(method.sizes() for method in experiment.methods):
        what = "no method's result can be served in several sizes"
        yield BrokenRule(path=("evaluation", "size_metrics"), what=what, fix="Remove it, or add such a method")


def _attention_rules(experiment: Experiment) -> list[BrokenRule]:
    """What the attention kernels cannot do."""
    broken = []
    attention = experiment.model.attn_implementation
    if experiment.data.packing and attention == "eager":
        what = "packed rows would see each other under model.attn_implementation: eager"
        fix = "Set model.attn_implementation: sdpa, or data.packing: false"
        broken.append(BrokenRule(path=("data", "packing"), what=what, fix=fix))
    if attention == "flash_attention_2" and experiment.training.deterministic:
        what = "the backward pass of flash_attention_2 is not deterministic, and training.deterministic is true"
        fix = "Set training.deterministic: false, or model.attn_implementation: sdpa"
        broken.append(BrokenRule(path=("training", "deterministic"), what=what, fix=fix))
    if attention == "flash_attention_2" and experiment.model.dtype == "float32":
        what = "flash_attention_2 needs 16-bit numbers, and model.dtype is float32"
        fix = "Set model.dtype: bfloat16, or model.attn_implementation: sdpa"
        broken.append(BrokenRule(path=("model", "attn_implementation"), what=what, fix=fix))
    return broken
