"""Prove that a package answers as the evaluation did, by loading it as a user would."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.data.templates import Renderer
from tasks.data.values import Turn
from tasks.evaluation.generation import greedy_answers
from tasks.evaluation.loaded import Loaded, evaluating, prompt_learning_config
from tasks.evaluation.settings import EvaluationSettings
from tasks.foundation.errors import IntegrityError
from tasks.methods.loading import load_candidate
from tasks.models.loading import load_tokenizer, pick_device
from tasks.registry.package import columns
from tasks.registry.values import Example, RegisterRequest

log = logging.getLogger(__name__)

_PROBES = ("a", "  two  spaces\n", "{system} {prompt} {completion}", "中文，一句话。")


def prove(output: Path, request: RegisterRequest) -> None:
    """Compare prompts and the example's answer.

    The evaluation answers in batches, which can move the last bits of a sum and, in 16 bits, now and then a word. Where
    the texts differ, the evaluation's own engine is asked again with this prompt alone, and must agree.

    Raises:
        IntegrityError: a prompt becomes other ids than in training, or the answers differ.
    """
    import mlflow

    loaded = mlflow.pyfunc.load_model(str(output), suppress_warnings=True)
    renderer = Renderer(load_tokenizer(request.candidate.base), request.data)
    for example in [*(Example(prompt=probe, answer="") for probe in _PROBES), request.example]:
        if example is not None:
            _same_ids(loaded.unwrap_python_model(), renderer, example)
    if request.example is not None:
        _same_answer(loaded, request, request.example)


def _same_ids(model: Any, renderer: Renderer, example: Example) -> None:
    if model.prompt_ids(example.prompt, example.system) != renderer.prompt_ids(_turns(example)):
        raise IntegrityError(f"the package renders the prompt {example.prompt[:60]!r} unlike the training did")


def _same_answer(loaded: Any, request: RegisterRequest, example: Example) -> None:
    with evaluating(pick_device()):
        text = loaded.predict(pd.DataFrame(columns(example)), params={"max_new_tokens": request.max_new_tokens})[0]
    if text == example.answer:
        return
    if text != _answer_alone(request, example):
        raise IntegrityError(
            f"the package answers {text[:80]!r} where the evaluation saw {example.answer[:80]!r}",
            where=request.label,
            fix="Run again; if it stays, the weights or the versions of the libraries changed after the evaluation",
        )
    log.warning(
        "%s: asked alone, the example is answered %r, in the evaluation's batch %r", request.label, text, example
    )


def _answer_alone(request: RegisterRequest, example: Example) -> str:
    """The evaluation's engine with this one prompt."""
    candidate, device = request.candidate, pick_device()
    tokenizer, model = load_tokenizer(candidate.base), load_candidate(candidate, device=device)
    soft = prompt_learning_config(model)
    loaded = Loaded(
        model=model,
        tokenizer=tokenizer,
        renderer=Renderer(tokenizer, request.data),
        device=device,
        context=candidate.base.facts.max_position_embeddings,
        virtual_tokens=soft.num_virtual_tokens if soft else 0,
    )
    settings = EvaluationSettings(max_new_tokens=request.max_new_tokens, batch_size=1)
    ids = loaded.renderer.prompt_ids(_turns(example))[-(loaded.room - request.max_new_tokens) :]
    with evaluating(device):
        return greedy_answers(loaded, [ids], settings, lambda _: None)[0]


def _turns(example: Example) -> list[Turn]:
    system = [Turn(role="system", content=example.system)] if example.system else []
    return [*system, Turn(role="user", content=example.prompt)]
