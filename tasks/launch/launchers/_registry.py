"""Find the launchers, and read the settings of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.foundation.discovery import discover
from tasks.foundation.errors import ConfigError
from tasks.launch.launchers._base import Launcher


def all_launchers() -> dict[str, type[Launcher]]:
    """Every launcher by its name, in the order of its file's name."""
    found = discover("tasks.launch.launchers", Launcher)
    return {str(launcher.model_fields["launcher"].default): launcher for launcher in found}


def parse_launcher(settings: Mapping[str, Any]) -> Launcher:
    """The launcher that `launcher` names (`local` when absent), with its settings checked by pydantic.

    Raises:
        ConfigError: there is no such launcher.
    """
    known = all_launchers()
    name = settings.get("launcher", "local")
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"no launcher {name!r}", where="distributed.launcher", allowed=", ".join(known))
    return known[name].model_validate(dict(settings))
