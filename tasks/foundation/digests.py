"""Digests that name artifacts: of values, of files, and of the code that turns one into the other."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_CHUNK_BYTES = 1 << 20
_PARSE_TRIES = 5
_parsing = threading.Lock()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, UTF-8 kept: equal values give equal text.

    Raises:
        ValueError: a float is NaN or infinite.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_value(value: Any) -> str:
    """sha256 (64 hex digits) of a JSON-like value or a pydantic value."""
    return digest_text(canonical_json(value))


def digest_text(text: str) -> str:
    """sha256 of the text as UTF-8; lone surrogates are kept apart from their replacement."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, read in chunks of 1 MiB."""
    seen = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            seen.update(chunk)
    return seen.hexdigest()


def digest_tree(folder: Path, names: Iterable[str]) -> str:
    """One sha256 over the names and bytes of some files of a folder, in sorted order."""
    return digest_value({name: digest_file(folder / name) for name in sorted(names)})


@cache
def code_digest(*modules: str) -> str:
    """sha256 of what modules or packages (with their submodules) do: syntax trees without docstrings and comments.

    A reformatted file or a better docstring keeps the digest; a changed constant does not.
    """
    trees = {
        str(name): ast.dump(_without_docstrings(parsed(source.read_text(encoding="utf-8"))))
        for module in modules
        for name, source in _sources(module)
    }
    return digest_value(trees)


def parsed(text: str) -> ast.Module:
    """Python 3.11 counts the depth of all threads' trees together, and takes a mismatch for an error (gh-106905).

    Steps of a flow ask from several threads, so they ask one after another; a library may parse beside them still.
    """
    with _parsing:
        for _ in range(_PARSE_TRIES - 1):
            with suppress(SystemError):
                return ast.parse(text)
        return ast.parse(text)


def _sources(module: str) -> list[tuple[str, Path]]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source for {module}")
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return [(module, origin)]
    root = origin.parent
    return [(f"{module}/{path.relative_to(root)}", path) for path in sorted(root.rglob("*.py"))]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
            node.body = kept  # type: ignore[attr-defined]
    return tree


def library_versions(*names: str) -> dict[str, str]:
    """Installed versions of the libraries whose behaviour decides a step's output."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
