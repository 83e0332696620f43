"""Which modules of this project a module needs: read from its text, so that what functions import counts as well."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tasks.foundation.digests import parsed

ROOT = "tasks"
_HOME = Path(__file__).parents[2]
"""Where the package lies."""


def imported_by(*modules: str) -> dict[str, Path]:
    """Name -> file of modules and of all of ours that they import, at their top or inside functions; sorted."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file_of(name)
        if path is not None:
            found[name] = path
            waiting += _above(name)
            waiting += _imports(path)
    return dict(sorted(found.items()))


@cache
def needed_within(package: str, module: str) -> tuple[str, ...]:
    """The module and all those of the package, but not the package itself, that it needs; sorted."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name.startswith(f"{package}.") and (path := _file_of(name)) is not None:
            found.add(name)
            waiting += _imports(path)
    return tuple(sorted(found))


def _above(name: str) -> Iterator[str]:
    """The packages that a module lies in, which Python imports before it."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@cache
def _imports(path: Path) -> tuple[str, ...]:
    nodes = list(ast.walk(parsed(path.read_text(encoding="utf-8"))))
    from_others = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names = [name for node in from_others for name in _named(node)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return tuple(name for name in names if name.partition(".")[0] == ROOT)


def _named(node: ast.ImportFrom) -> Iterator[str]:
    """What is imported may be a module of the package, or a thing in it."""
    yield str(node.module)
    yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _file_of(name: str) -> Path | None:
    """None for a name that is no module, such as a class that was imported. Nothing is imported to find out."""
    package, _, leaf = name.rpartition(".")
    files = (path for folder in _folders_of(package) for path in (folder / f"{leaf}.py", folder / leaf / "__init__.py"))
    return next((path for path in files if path.is_file()), None)


def _folders_of(package: str) -> list[Path]:
    """Where its modules lie; none where it is a module itself."""
    if not package:
        return [_HOME]
    if package in sys.modules:
        return [Path(folder) for folder in getattr(sys.modules[package], "__path__", ())]
    file = _file_of(package)
    return [file.parent] if file is not None and file.name == "__init__.py" else []
