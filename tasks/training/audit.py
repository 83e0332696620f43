"""After three optimiser steps exactly the parameters that should train have changed."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.foundation.errors import ModelError
from tasks.training.shards import is_held, is_of_deepspeed, local_part, named_anywhere, unlinked_masters

log = logging.getLogger(__name__)

_STEPS = 3
"""LoRA's A gets a gradient only after B has moved, and a warm-up starts at rate 0: three steps see all of it."""
_PIECE = 1 << 20
"""Elements that are summed at a time."""


class ParameterAudit(TrainerCallback):  # type: ignore[misc]
    """Compares checksums before the first and after the third step of this process.

    A trainable tensor that did not move fails the run, except that two cases are only logged: its gradient was exactly
    zero each time (a token or an expert that these batches never touched), or the optimiser did update it, but by less
    than the last bit of its values (the first rates of a long warm-up). A frozen tensor that moved always fails.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: dict[str, tuple[float, float]] = {}
        self._touched: set[str] = set()
        self._updated: set[str] = set()
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._before = checksums(self._model)
        self._first_step = state.global_step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if not self._before:
            return
        optimizer = given["optimizer"]
        moving = [group for group in optimizer.param_groups if group["lr"] > 0]
        held = {id(parameter) for group in moving for parameter in group["params"]}
        gone = is_of_deepspeed(optimizer)  # it has stepped already, and no gradient is left to be seen
        if gone and moving:
            held |= unlinked_masters(optimizer.optimizer).keys()
        for name, parameter in self._model.named_parameters():
            gradient = parameter.grad
            if parameter.requires_grad and (gradient is None or bool(local_part(gradient).any())):
                self._touched.add(name)
                if ((gradient is not None or gone) and id(parameter) in held) or (moving and is_held(parameter)):
                    self._updated.add(name)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        steps = state.global_step - self._first_step
        whole_run = self._first_step == 0 and state.global_step >= state.max_steps  # a run shorter than that
        if self._before and (steps >= _STEPS or whole_run):
            verdict(self._model, self._before, self._touched, self._updated)
            self._before = {}


def checksums(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Sum and position-weighted sum of each parameter's bit patterns on this rank: a changed bit changes them.

    In pieces of 8 MiB: whole embeddings as 64-bit integers would be the peak of a large model's memory.
    """
    return {name: _checksum(local_part(parameter).detach()) for name, parameter in model.named_parameters()}


def _checksum(tensor: torch.Tensor) -> tuple[float, float]:
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    sums = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    start = 1
    for piece in tensor.contiguous().view(-1).view(bits).split(_PIECE):
        values = piece.to(torch.int64)
        weights = torch.arange(start, start + values.numel(), device=values.device, dtype=torch.int64)
        sums += torch.stack([values.sum(), (values * weights).sum()])
        start += values.numel()
    whole, weighted = sums.tolist()
    return (whole, weighted)


def verdict(
    model: nn.Module, before: dict[str, tuple[float, float]], touched: set[str], updated: Collection[str] = ()
) -> None:
    """Raise ModelError where the wrong tensors moved on any rank, naming the first of them; on every rank.

    Args:
        model: after some steps.
        before: its checksums before them.
        touched: trainable tensors that had a gradient other than zero, or none at all.
        updated: those of them that the optimiser holds, at a rate above 0.
    """
    after = checksums(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {name for name in after if after[name] != before.get(name)}
    moved, touched, updated = named_anywhere([moved, touched, set(updated)], model)
    if wrong := sorted(moved - trainable):
        raise ModelError(f"{len(wrong)} frozen tensors changed while training, first {wrong[0]}")
    still = trainable - moved
    if dead := sorted((still & touched) - updated):
        raise ModelError(
            f"{len(dead)} trainable tensors did not change in the first steps, first {dead[0]}",
            fix="They are not connected to the loss, or their learning rate is 0 (a warm-up starts at 0)",
        )
    if untouched := sorted(still - touched):
        log.warning("%d trainable tensors got only zero gradients so far, first %s", len(untouched), untouched[0])
    if rounded := sorted(still & touched):
        log.warning("%d trainable tensors moved by less than a bit so far, first %s", len(rounded), rounded[0])
