"""Extend by file: classes are found in the modules of a package, never listed by hand."""

from __future__ import annotations

import importlib
import inspect
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
    """Every public concrete class below `base` that a module of the package defines, sorted by module and name."""
    found: list[type[T]] = []
    for name in modules_of(package):
        things = vars(importlib.import_module(name))
        own = [things[key] for key in sorted(things) if _is_defined_here(things[key], key, name)]
        found += [thing for thing in own if issubclass(thing, base) and not inspect.isabstract(thing)]
    return tuple(found)


def _is_defined_here(thing: object, key: str, module: str) -> bool:
    """True for a public class under its own name, not for an imported one or a second name of the same."""
    return isinstance(thing, type) and thing.__module__ == module and thing.__name__ == key and not key.startswith("_")
