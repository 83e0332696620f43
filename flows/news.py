"""Whether there is anything new to compare: a nightly run over the same data would register the same model again."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas import State
from prefect.states import Completed

from configs.experiment import Experiment
from tasks.data.values import PreparedData
from tasks.foundation.errors import ConfigError
from tasks.tracking.lookup import Lookup

UNCHANGED = "Unchanged"
_TAG = "tuneline.data_digest"


def refuse_without_model(settings: Experiment) -> None:
    """Refuse to look for what is newer than a registered version where none would be registered.

    Raises:
        ConfigError: the experiment names no model.
    """
    if settings.registry.model is None:
        what = "only_new_data compares with the newest version of a registered model, and registry.model names none"
        raise ConfigError(what, where="argument only_new_data", fix="Set registry.model, or leave only_new_data off")


def unchanged(settings: Experiment, prepared: PreparedData) -> State[Any] | None:
    """The state in which the flow ends where the newest registered version was made from these very rows; else None.

    Raises:
        DependencyError: MLflow does not answer.
    """
    model = str(settings.registry.model)
    newest = Lookup(settings.tracking).newest(model)
    digest = prepared.report.digest
    if newest is None or newest.tags.get(_TAG) != digest:
        return None
    said = f"{model} version {newest.version} was made from these rows (digest {digest[:12]}); nothing was trained."
    return Completed(name=UNCHANGED, message=said)
