"""One cell: a base model, a method, data and a seed. The steps are those of a comparison, with the untuned base."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas import State

from configs.one_cell import OneCell
from flows.compare_methods import Asked, compared
from flows.guarding import end_with_worker
from flows.outcome import FlowOutcome, failing_plainly
from flows.parts import one_cell_settings
from flows.reconcile import NOTED, note_flow_run


@flow(name="fine-tune", flow_run_name="{method} on {data}, seed {seed}", persist_result=False, **NOTED)
@failing_plainly
def fine_tune(
    data: str,
    base: str = "embedded:tiny-llama",
    method: str = "lora",
    seed: int = 0,
    max_steps: int = 0,
    learning_rate: float = 0.0,
    register_as: str = "",
    overrides: dict[str, Any] = {},  # noqa: B006  (Prefect's form shows this default, and nothing writes to it)
) -> State[FlowOutcome]:
    """Fine-tune one model with one method, and measure it against the untuned base.

    Args:
        data: The training rows: a file, relative to the working directory, or embedded:TASK. A tenth is held out.
        base: The base model: a folder, embedded:tiny-llama, or a hub id with its commit (NAME@40 hex digits).
        method: The fine-tuning method, with its own defaults; overrides change them as methods.0.KEY.
        seed: Seed of everything random.
        max_steps: Optimiser steps; 0 means three passes over the rows.
        learning_rate: Peak learning rate; 0 means the method's own for the model's size.
        register_as: Registered model that gets a new version; empty registers nothing.
        overrides: Any other key of an experiment as JSON, for example {"training.save_steps": 50, "methods.0.r": 8}.
    """
    end_with_worker()
    note_flow_run()
    cell = OneCell(
        base=base,
        method=method,
        data=data,
        seed=seed,
        max_steps=max_steps,
        learning_rate=learning_rate,
        register_as=register_as,
    )
    return compared(one_cell_settings(cell, overrides), Asked(flow="fine-tune"))
