"""Entries of `methods` that stand for several cells, written out before anything is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.document import Document, KeyPath
from configs.schema import method_kinds


def expanded(document: Document) -> Document:
    """The document with one entry per cell; each knows the line of the entry that it comes from.

    What is wrong with an entry itself is left for the check of the experiment.

    Raises:
        ConfigError: an entry names files, and something is wrong with one of them.
    """
    entries = document.data.get("methods")
    if not isinstance(entries, list):
        return document
    cells: list[Any] = []
    sources: list[int] = []
    for index, entry in enumerate(entries):
        kind = entry.get("kind") if isinstance(entry, Mapping) else None
        method = method_kinds().get(kind) if isinstance(kind, str) else None
        made = [entry] if method is None else [dict(cell) for cell in method.expand(entry)]
        cells += made
        sources += [index] * len(made)
    if sources == list(range(len(entries))) and cells == entries:
        return document
    return Document(document.file, document.data | {"methods": cells}, _origins(document, sources))


def _origins(document: Document, sources: list[int]) -> dict[KeyPath, str]:
    """Where each key stands, with the entries under their new positions."""
    others = {path: origin for path, origin in document.origins.items() if path[:1] != ("methods",) or len(path) == 1}
    moved = {
        ("methods", position, *path[2:]): origin
        for position, source in enumerate(sources)
        for path, origin in document.origins.items()
        if path[:2] == ("methods", source)
    }
    return others | moved
