"""`tuneline manifest`: an experiment as Kubernetes objects."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configs.experiment import Experiment
from configs.loading import load_experiment, name_from
from configs.wording import shown
from flows.secrets import refuse_secrets
from tasks.foundation.errors import ConfigError
from tasks.launch.kubernetes import ManifestSettings, manifests
from tasks.launch.launchers.local import LocalLauncher
from tasks.launch.launchers.pods import PodsLauncher
from tasks.tracking import redact

_NAME_LENGTH = 40
_OPTIONS = {"secrets": "secret"}
"""Settings that the command line calls otherwise."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, and no aliases: people read this."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def manifest_text(path: Path, overrides: Sequence[str], options: Mapping[str, Any]) -> str:
    """YAML of all objects; the experiment's file and the overrides are inside.

    Raises:
        ConfigError: the experiment, an override or an option is wrong, one of them holds a password, or the
            experiment's launcher is not one for pods.
    """
    refuse_secrets(overrides)
    experiment = load_experiment(path, overrides)
    text = path.read_text(encoding="utf-8-sig")
    _refuse_passwords(path, text)
    known = {"file": f"{name_from(path)}.yaml", "experiment": text, "overrides": tuple(overrides)}
    settings = _settings(experiment, known | dict(options))
    return yaml.dump_all(manifests(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _refuse_passwords(path: Path, text: str) -> None:
    """The text becomes a ConfigMap, which everybody in the namespace may read."""
    for number, line in enumerate(text.splitlines(), 1):
        if redact(line) != line:
            fix = "Leave it out of the URI, and name a Secret with --secret that holds MLFLOW_TRACKING_USERNAME and "
            fix += "MLFLOW_TRACKING_PASSWORD"
            raise ConfigError("a password in the file would be in the manifest", where=f"{path}:{number}", fix=fix)


def _settings(experiment: Experiment, options: dict[str, Any]) -> ManifestSettings:
    launcher = experiment.distributed
    if not isinstance(launcher, (LocalLauncher, PodsLauncher)):
        what = f"{launcher.launcher} does not start ranks in pods"
        fix = "Set distributed.launcher: local for one pod, pods for several"
        raise ConfigError(what, where="distributed.launcher", allowed="local, pods", fix=fix)
    side_by_side = launcher.ranks_per_node * (launcher.parallel_cells or 1)
    known = {
        "name": re.sub(r"[._]+", "-", experiment.name)[:_NAME_LENGTH].strip("-"),
        "nodes": launcher.node_count,
        "accelerators": 0 if launcher.accelerator == "cpu" else side_by_side,
    }
    try:
        return ManifestSettings.model_validate(known | options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, got = str(first["loc"][0]) if first["loc"] else "overrides", first["input"]
        allowed = str(first["msg"]).replace("String should match pattern", "text like").removeprefix("Input should be ")
        raise ConfigError(f"{shown(got)} does not fit", where=f"--{_OPTIONS.get(key, key)}", allowed=allowed) from error
