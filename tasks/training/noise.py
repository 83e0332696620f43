"""Noisy embeddings while training (NEFTune, arXiv 2310.05914)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EmbeddingNoise(TrainerCallback):  # type: ignore[misc]
    """Adds noise to the embeddings of the tokens, from the first step of training to the last one.

    Each number of the embeddings [rows, tokens, width] gets one of its own, uniform in +-alpha / sqrt(tokens x width).
    The Trainer's own switch looks for the table where soft prompts on GPT-2, GPT-NeoX and BLOOM have none, and dies.
    Virtual tokens are no tokens: they stay as they are. The noise comes from torch's generator, whose state checkpoints
    keep.

    Args:
        alpha: above 0.
        model: with the method attached.
    """

    def __init__(self, alpha: float, model: nn.Module) -> None:
        self._alpha = alpha
        self._model = model
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._handle = token_embeddings(self._model).register_forward_hook(self._disturb)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _disturb(self, table: nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not table.training:
            return embedded
        largest = self._alpha / math.sqrt(embedded.shape[1] * embedded.shape[2])
        return embedded + torch.empty_like(embedded).uniform_(-largest, largest)


def token_embeddings(model: Any) -> nn.Module:
    """The table of the base, whatever stands around it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    table: nn.Module = base.get_input_embeddings()
    return table
