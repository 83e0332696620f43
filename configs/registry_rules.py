"""What the section `registry` may name, and what its gate may ask for: only what is measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from configs.document import KeyPath
from configs.rules import BrokenRule
from configs.wording import listed, shown
from tasks.evaluation.settings import EvaluationSettings
from tasks.methods import Method
from tasks.metrics import all_metrics
from tasks.registry.settings import GateSettings, RegistrySettings

_MODEL_NAME = re.compile(r"(?!\.{1,2}\Z)[^/:\x00-\x1f]*[^/:\s][^/:\x00-\x1f]*")
_PRODUCTION = frozenset({"champion", "previous"})
_ALIAS = re.compile(r"(?!(?i:latest|v\d+)\Z)[\w-]{1,255}")


def registry_rules(
    registry: RegistrySettings, evaluation: EvaluationSettings, methods: Sequence[Method]
) -> list[BrokenRule]:
    """What would be refused, or never pass, only after everything was trained."""
    broken = []
    metric, names = registry.metric, evaluation.metrics
    measured = list(dict.fromkeys(value for name in names for value in (name, all_metrics()[name].headline)))
    if metric is not None and metric not in measured:
        what = f"{shown(metric)} is not measured"
        fix = "Add it to evaluation.metrics" if metric in all_metrics() else "Name one that is"
        broken.append(BrokenRule(path=("registry", "metric"), what=what, allowed=listed(measured), fix=fix))
    broken += _registered_names(registry)
    broken += _gate_rules(registry.gate, evaluation)
    if registry.model is not None and all(method.holds == "nothing" for method in methods):
        fix = "Add a method that trains, or remove registry.model"
        broken.append(
            BrokenRule(path=("registry", "model"), what="no method trains, so nothing can be registered", fix=fix)
        )
    return broken


def _registered_names(registry: RegistrySettings) -> Iterator[BrokenRule]:
    """What MLflow's registry would refuse only after everything was trained."""
    model, alias = registry.model, registry.alias
    if model is not None and not _MODEL_NAME.fullmatch(model):
        what, allowed = f"{shown(model)} is no name of a model", "text without '/' and ':'"
        yield BrokenRule(path=("registry", "model"), what=what, allowed=allowed, fix="Name it otherwise")
    if not _ALIAS.fullmatch(alias):
        what = f"{shown(alias)} is no alias"
        allowed = "letters, digits, '_' and '-', but neither latest nor v1, v2, …"
        yield BrokenRule(path=("registry", "alias"), what=what, allowed=allowed, fix="Name it otherwise")
    if alias in _PRODUCTION:
        what = f"{alias} is moved by `tuneline promote` and `tuneline rollback` alone, past a gate"
        yield BrokenRule(path=("registry", "alias"), what=what, fix="Name it otherwise; challenger is the default")


def _gate_rules(gate: GateSettings, evaluation: EvaluationSettings) -> Iterator[BrokenRule]:
    """What a gate asks for has to be measured, or nothing would ever pass it."""
    metric = gate.champion.metric
    if metric is not None and metric not in evaluation.metrics:
        path: KeyPath = ("registry", "gate", "champion", "metric")
        fix = "Add it to evaluation.metrics" if metric in all_metrics() else "Name one that is"
        what = f"{shown(metric)} is not measured"
        yield BrokenRule(path=path, what=what, allowed=listed(evaluation.metrics), fix=fix)
    if gate.max_forgetting is not None and evaluation.probe is None:
        what, fix = "forgetting is measured on a probe, and there is none", "Set evaluation.probe"
        yield BrokenRule(path=("registry", "gate", "max_forgetting"), what=what, fix=fix)
