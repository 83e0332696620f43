"""What is asked for in a promotion, checked: arguments of the command line and of Prefect's form mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from configs.document import read_document
from configs.experiment import Paths
from configs.explain import explain
from configs.loading import InvalidExperimentError
from tasks.foundation.errors import ConfigError
from tasks.promotion.ask import REASON_CHARACTERS, Ask, GateFile
from tasks.registry.settings import GateSettings
from tasks.tracking.redaction import redact
from tasks.tracking.settings import TrackingSettings


def load_gate(path: Path) -> GateFile:
    """A gate in a file of its own: the keys of `registry.gate`.

    Raises:
        ConfigError: what is wrong with the file, with its line.
    """
    document = read_document(path)
    try:
        return GateFile(path=str(path), settings=GateSettings.model_validate(document.data))
    except ValidationError as error:
        raise InvalidExperimentError(explain(error, GateSettings, document)) from error


def ask_for(model: str, reason: str, environment: Mapping[str, str]) -> Ask:
    """What somebody asks for, with this environment's tracking server and runs folder.

    Raises:
        ConfigError: no model, or no reason.
    """
    if not model.strip():
        raise ConfigError("no model is named", where="MODEL", fix="Name a registered model")
    words = " ".join(reason.split())
    if not words:
        fix = "Say in a sentence why: it stays in the promotion log"
        raise ConfigError("no reason is given", where="--reason", fix=fix)
    if redact(words) != words:
        what = "the reason holds a password, and it stays in the promotion log"
        raise ConfigError(what, where="--reason", fix="Leave it out")
    if len(words) > REASON_CHARACTERS:
        what = f"the reason has {len(words)} characters"
        raise ConfigError(what, where="--reason", allowed=f"at most {REASON_CHARACTERS}", fix="Say it shorter")
    uri = environment.get("MLFLOW_TRACKING_URI")
    return Ask(
        model=model.strip(),
        reason=words,
        runs=Paths.from_environment(environment).runs.absolute(),
        tracking=TrackingSettings(uri=uri) if uri else TrackingSettings(),
    )


def nominated(ask: Ask, version: int, alias: str = "challenger", gate: str = "") -> Ask:
    """With the version that is to be promoted, and the gate that is to judge.

    Raises:
        ConfigError: a version below 0, no alias, or a gate file that is wrong.
    """
    if version < 0:
        what = f"{version} is no version"
        raise ConfigError(what, where="--version", allowed="1, 2, …; 0 for the alias", fix="Name one of the model's")
    if not version and not alias.strip():
        raise ConfigError("neither a version nor an alias is named", where="--alias", fix="Name one of them")
    chosen = load_gate(Path(gate)) if gate.strip() else None
    return ask.model_copy(update={"version": version, "alias": alias.strip(), "gate": chosen})
