"""Step 1b: more tokens for the base, where the experiment asks for them."""

from __future__ import annotations

from prefect import task
from prefect.client.schemas import State

from tasks.data.values import PreparedData
from tasks.launch.children import run_in_child_reporting
from tasks.models.settings import ModelSettings
from tasks.models.values import BaseModel
from tasks.records import record_vocabulary
from tasks.states import finished
from tasks.vocabulary import ExtendedBase, extension_job, read_extended, vocabulary_key
from tasks.vocabulary.child import extend_in_child
from tasks.workspace import Place, reporting


@task(name="extend vocabulary", task_run_name="extend vocabulary", persist_result=False)
def extend_vocabulary(
    base: BaseModel, prepared: PreparedData, settings: ModelSettings, place: Place
) -> ExtendedBase | State[ExtendedBase]:
    """Choose tokens, train their rows, prove that nothing else moved; or adopt what the same inputs gave before."""
    job = extension_job(base, prepared, settings)
    if job is None:
        return ExtendedBase(base=base)
    with reporting(place, "prepare") as reporter:
        artifact = place.workspace.store.make(
            "vocabulary",
            vocabulary_key(job),
            lambda folder: run_in_child_reporting(extend_in_child, reporter.progress, job, folder),
            made_by=place.run.key,
        )
        found = read_extended(artifact, settings)
        record_vocabulary(found, [place.run])
        return finished(found, cached=artifact.cached)
