"""Step 0: the base model, found and checked, or made where it is the embedded one."""

from __future__ import annotations

from prefect import task

from tasks.embedded import EMBEDDED_PREFIX
from tasks.models.hub import fetch
from tasks.models.resolve import resolve_base
from tasks.models.settings import ModelSettings
from tasks.models.values import BaseModel
from tasks.sources.embedded import embedded_folder
from tasks.workspace import Place, reporting


@task(name="find base model", task_run_name="find base {settings.name_or_path}", persist_result=False)
def find_base(settings: ModelSettings, place: Place) -> BaseModel:
    """A local folder, a hub snapshot at its commit, or the embedded model, which is built once and kept."""
    with reporting(place, "prepare") as reporter:
        if not settings.name_or_path.startswith(EMBEDDED_PREFIX):
            return resolve_base(settings, fetch(settings) if settings.revision else None)
        folder = embedded_folder(place.workspace.store, reporter.progress, place.run.key)
        return resolve_base(settings, folder)
