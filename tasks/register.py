"""Step 7: the winner becomes a version of the registered model."""

from __future__ import annotations

from prefect import task
from prefect.client.schemas import State

from tasks.launch.children import run_in_child
from tasks.page import artifact_key, linked, show
from tasks.records.winner import Registration, register_request
from tasks.registry.child import register_in_child
from tasks.registry.recall import recall, remember
from tasks.registry.values import RegisteredVersion
from tasks.states import finished
from tasks.tracking import Run, version_page
from tasks.workspace import Place, reporting


@task(
    name="register",
    task_run_name="register {registration.winner.cell.label} as {registration.settings.model}",
    persist_result=False,
)
def register(registration: Registration, place: Place) -> RegisteredVersion | State[RegisteredVersion]:
    """Package the winner, prove that the package answers as the evaluation saw, register it and move the alias."""
    with reporting(place, "register"):
        request = register_request(registration, place.workspace.report(registration.name) / "comparison")
        tracking, store = registration.tracking, place.workspace.store
        version = recall(request, tracking, store)
        if version is None:
            version = run_in_child(register_in_child, request, tracking, place.workspace.mlflow_artifacts)
            remember(request, version, store)
        Run(place.run).set_tags({"tuneline.registered": version.uri})
        page = version_page(tracking, version.name, version.version)
        about = f"{linked(f'{version.name} version {version.version}', page)}, @{version.alias}"
        show(about, key=artifact_key("registered", version.name), about=about)
        return finished(version, cached=version.cached)
