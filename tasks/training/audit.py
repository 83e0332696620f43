"""After three optimiser steps exactly the parameters that should train have changed."""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.foundation.errors import ModelError

log = logging.getLogger(__name__)

_STEPS = 3
"""LoRA's A gets a gradient only after B has moved, and a warm-up starts at rate 0: three steps see all of it."""


class ParameterAudit(TrainerCallback):  # type: ignore[misc]
    """Compares checksums before the first and after the third step of this process.

    A trainable tensor that did not move fails the run unless its gradient was exactly zero each time (a token or an
    expert that these batches never touched), which is logged. A frozen tensor that moved always fails.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: dict[str, tuple[float, float]] = {}
        self._touched: set[str] = set()
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._before = checksums(self._model)
        self._first_step = state.global_step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if self._before:
            self._touched |= {
                name
                for name, parameter in self._model.named_parameters()
                if parameter.requires_grad and (parameter.grad is None or bool(parameter.grad.any()))
            }

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._before and state.global_step - self._first_step >= _STEPS:
            verdict(self._model, self._before, self._touched)
            self._before = {}


def checksums(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Sum and position-weighted sum of each parameter's bit patterns: a changed bit changes them. One pass, no copy."""
    return {name: _checksum(parameter.detach()) for name, parameter in model.named_parameters()}


def _checksum(tensor: torch.Tensor) -> tuple[float, float]:
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    values = tensor.contiguous().view(-1).view(bits).to(torch.int64)
    weights = torch.arange(1, values.numel() + 1, device=values.device, dtype=torch.int64)
    return (values.sum().item(), (values * weights).sum().item())


def verdict(model: nn.Module, before: dict[str, tuple[float, float]], touched: set[str]) -> None:
    """Raise ModelError where the wrong tensors moved, naming the first of them."""
    after = checksums(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {name for name in after if after[name] != before.get(name)}
    if wrong := sorted(moved - trainable):
        raise ModelError(f"{len(wrong)} frozen tensors changed while training, first {wrong[0]}")
    still = trainable - moved
    if dead := sorted(still & touched):
        raise ModelError(
            f"{len(dead)} trainable tensors did not change in {_STEPS} steps, first {dead[0]}",
            fix="They are not connected to the loss, or their learning rate is 0",
        )
    if still:
        log.warning("%d trainable tensors got only zero gradients so far, first %s", len(still), sorted(still)[0])
