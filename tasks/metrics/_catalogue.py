"""Which metrics there are: those whose files lie in this package."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from tasks.foundation.discovery import discover
from tasks.foundation.errors import ConfigError
from tasks.metrics._base import Metric

_PACKAGE = "tasks.metrics"


def all_metrics() -> dict[str, type[Metric]]:
    """Name -> class, sorted by name. Importing them is light: their libraries are imported when they measure."""
    return {metric.name: metric for metric in sorted(discover(_PACKAGE, Metric), key=lambda metric: metric.name)}


def metrics_named(names: Sequence[str]) -> tuple[Metric, ...]:
    """One instance per name, in the given order.

    Raises:
        ConfigError: a name that no metric has.
    """
    known = all_metrics()
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            fix = f"Did you mean {close[0]}?" if close else "Take one of these names."
            raise ConfigError(
                f"there is no metric {name!r}", where="evaluation.metrics", allowed=", ".join(known), fix=fix
            )
    return tuple(known[name]() for name in names)


def metric_code(names: Sequence[str]) -> tuple[str, ...]:
    """Modules whose code decides the values of these metrics: their own files and what the package shares."""
    own = {type(metric).__module__ for metric in metrics_named(names)}
    shared = {
        f"{_PACKAGE}.{info.name}"
        for info in pkgutil.iter_modules([str(Path(__file__).parent)])
        if info.name.startswith("_") and info.name != "_catalogue"
    }
    return tuple(sorted(own | shared))
