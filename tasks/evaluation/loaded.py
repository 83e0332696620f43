"""The candidate in memory: loaded once, asked many times."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from tasks.data.settings import DataSettings
from tasks.data.templates import Renderer, chats
from tasks.evaluation.values import EvaluationJob
from tasks.foundation.errors import ConfigError, DataError, ResourceError
from tasks.methods import Prompting, parse_method
from tasks.methods.loading import load_candidate
from tasks.models.loading import load_tokenizer, pick_device

THREADS = 1
"""Torch threads on CPU: more change the last bits of sums, and collapse when another process holds a core."""


class Loaded(NamedTuple):
    """A model in eval mode with all that is needed to ask it."""

    model: nn.Module
    tokenizer: Any
    renderer: Renderer
    device: str
    context: int
    """Positions of the model, virtual tokens included; `sys.maxsize` where the model sets no limit."""
    virtual_tokens: int
    """Positions that a soft prompt takes in front of every sequence; 0 for other methods."""
    prompting: Prompting | None = None
    """The method's hard prompt; `renderer` has its template already."""

    @property
    def room(self) -> int:
        """Positions left for real tokens."""
        return self.context - self.virtual_tokens


def load(job: EvaluationJob) -> Loaded:
    """Load tokenizer and model on this machine's device.

    Raises:
        ConfigError: the hard prompt has a separator that the tokenizer's chat template has no place for.
    """
    device = pick_device()
    tokenizer = load_tokenizer(job.candidate.base)
    prompting = parse_method(job.candidate.method).prompting()
    renderer = _renderer(tokenizer, job.data, prompting or Prompting(), job.candidate.label)
    model = load_candidate(job.candidate, device=device)
    prompt_learning = prompt_learning_config(model)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        renderer=renderer,
        device=device,
        context=job.candidate.base.facts.max_position_embeddings or sys.maxsize,
        virtual_tokens=prompt_learning.num_virtual_tokens if prompt_learning else 0,
        prompting=prompting,
    )


def _renderer(tokenizer: Any, data: DataSettings, prompting: Prompting, label: str) -> Renderer:
    if prompting.template is not None:
        data = data.model_copy(update={"template": prompting.template, "use_chat_template": False})
    if prompting.separator is not None and chats(tokenizer, data):
        raise ConfigError(
            "the tokenizer's chat template renders examples as earlier turns and puts nothing of ours between them",
            where=f"methods[{label}].shots_separator",
            fix="Remove it, or give the method a template",
        )
    return Renderer(tokenizer, data, prompting.separator)


def prompt_learning_config(model: nn.Module) -> Any:
    """PEFT's configuration when the model is one of its prompt-learning methods, else None."""
    config = getattr(model, "active_peft_config", None)
    return config if config is not None and config.is_prompt_learning else None


def padded(rows: list[list[int]], *, fill: int, left: bool, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal length as one tensor, with its attention mask; both [rows, longest], int64."""
    width = max(map(len, rows))
    gaps = [[fill] * (width - len(row)) for row in rows]
    ids = [gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)]
    ones = [[1] * len(row) for row in rows]
    zeros = [[0] * len(gap) for gap in gaps]
    mask = [zero + one if left else one + zero for one, zero in zip(ones, zeros, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def batches(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, the longest first, so that too little memory shows at once.

    Equal lengths keep their order: the batches depend on the data alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def check_room(loaded: Loaded, tokens: int, what: str) -> None:
    """Refuse a sequence that the model has no positions for.

    Raises:
        DataError: saying how many tokens too many.
    """
    if tokens > loaded.room:
        virtual = f" with {loaded.virtual_tokens} virtual tokens" if loaded.virtual_tokens else ""
        raise DataError(
            f"{what} needs {tokens} tokens{virtual}, the model has {loaded.context} positions",
            allowed=f"at most {loaded.room} tokens",
            fix="Lower data.max_seq_length or evaluation.max_new_tokens",
        )


@contextmanager
def evaluating(device: str) -> Iterator[None]:
    """No gradients, a fixed number of threads, and a plain word when memory is short.

    Raises:
        ResourceError: the accelerator's memory is used up.
    """
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(THREADS)
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{device} has too little memory for the evaluation",
            where="evaluation.batch_size",
            fix="Lower evaluation.batch_size",
        ) from error
    finally:
        torch.set_num_threads(threads)
