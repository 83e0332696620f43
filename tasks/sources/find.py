"""From references to sources: each is found and digested once, however many cells name it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tasks.artifacts import ArtifactStore
from tasks.methods import Method, Source
from tasks.models import BaseModel, ModelSettings, fetch
from tasks.sources.folder import source_in
from tasks.sources.reference import Reference, parse_reference
from tasks.sources.registered import version_folder
from tasks.sources.runs import run_folder
from tasks.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from tasks.tracking.lookup import Lookup


class Search(NamedTuple):
    """Where earlier results may lie."""

    tracking: TrackingSettings
    store: ArtifactStore
    embedded: Callable[[], Path]
    """Makes the embedded model, or finds it."""


class Finder:
    """Finds what methods name."""

    def __init__(self, base: BaseModel, search: Search) -> None:
        self._base = base
        self._search = search
        self._found: dict[str, Source] = {}

    def sources_of(self, method: Method) -> dict[str, Source]:
        """All that a method names, by the setting that names it.

        Raises:
            ConfigError, ModelError, IntegrityError: there is no such thing, or it cannot be used; with the way out.
            DependencyError: MLflow or the hub does not answer.
        """
        return {name: self._find(text, f"methods[{method.label}].{name}") for name, text in method.sources().items()}

    def _find(self, text: str, where: str) -> Source:
        if text not in self._found:
            self._found[text] = self._look(parse_reference(text, where))
        return self._found[text]

    def _look(self, reference: Reference) -> Source:
        if reference.kind == "run":
            folder, run = run_folder(reference, self._lookup, self._search.store)
            return self._in(folder, reference).model_copy(update={"run_id": run.run_id})
        if reference.kind == "registered":
            folder, version = version_folder(reference, self._lookup, self._search.store)
            return self._in(folder, reference).model_copy(update={"run_id": version.tags.get("tuneline.run_id", "")})
        if reference.kind == "hub":
            settings = ModelSettings(name_or_path=reference.name, revision=reference.revision)
            return _of_hub(self._in(fetch(settings), reference), reference)
        folder = self._search.embedded() if reference.kind == "embedded" else Path(reference.text)
        return self._in(folder, reference)

    def _in(self, folder: Path, reference: Reference) -> Source:
        return source_in(folder, reference.text, reference.where, self._base)

    @cached_property
    def _lookup(self) -> Lookup:
        from tasks.tracking.lookup import Lookup

        return Lookup(self._search.tracking)


def _of_hub(source: Source, reference: Reference) -> Source:
    """A whole model is named as `model.name_or_path` and `model.revision` would name it."""
    if source.model is None:
        return source
    named = source.model.model_copy(update={"name": reference.name, "revision": reference.revision})
    return source.model_copy(update={"model": named})
