"""Step 2: rows become tokens and masks."""

from __future__ import annotations

from prefect import task
from prefect.client.schemas import State

from tasks.data.settings import DataSettings
from tasks.data.tokenize import read_tokenized, tokenize, tokenize_key
from tasks.data.values import PreparedData, TokenizedData
from tasks.launch.children import run_in_child
from tasks.models.values import BaseModel
from tasks.records import record_tokens
from tasks.states import finished
from tasks.workspace import Place, reporting


@task(name="tokenize data", task_run_name="tokenize data", persist_result=False)
def tokenize_data(
    prepared: PreparedData, base: BaseModel, settings: DataSettings, place: Place
) -> TokenizedData | State[TokenizedData]:
    """Render, tokenise, mask, pack; or adopt tokens that the same rows, template and tokenizer gave before."""
    with reporting(place, "prepare"):
        key = tokenize_key(prepared, base, settings)
        artifact = place.workspace.store.make(
            "tokenize",
            key,
            lambda folder: run_in_child(tokenize, prepared, base, settings, folder),
            made_by=place.run.key,
        )
        tokens = read_tokenized(artifact)
        record_tokens(tokens, [place.run])
        return finished(tokens, cached=artifact.cached)
