"""Extend by file: classes are found in the modules of a package, never listed by hand."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TypeVar

T = TypeVar("T")


@cache
def modules_of(package: str) -> tuple[str, ...]:
    """Full names of the public modules of a package, sorted; modules that start with `_` are the package's own."""
    root = importlib.import_module(package)
    found = (info.name for info in pkgutil.iter_modules(root.__path__) if not info.name.startswith("_"))
    return tuple(f"{package}.{name}" for name in sorted(found))


def discover(package: str, base: type[T]) -> tuple[type[T], ...]:
    """Every concrete class below `base` that a module of the package defines, sorted by module and name."""
    found: list[type[T]] = []
    for name in modules_of(package):
        module = importlib.import_module(name)
        for _, thing in sorted(vars(module).items()):
            if isinstance(thing, type) and issubclass(thing, base) and thing.__module__ == name:
                if not thing.__name__.startswith("_") and thing is not base:
                    found.append(thing)
    return tuple(found)
