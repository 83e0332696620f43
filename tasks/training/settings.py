"""How every cell trains. Names and meanings are those of transformers.TrainingArguments."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tasks.foundation.values import Settings


def _expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


class ParameterGroup(Settings):
    """Trainable tensors with a rate or a decay of their own."""

    parameters: Annotated[str, AfterValidator(_expression)]
    """Regular expression that is searched for in full parameter names, for example `lora_B|layers\\.1\\.`."""
    learning_rate_scale: float = Field(default=1.0, gt=0)
    """Factor on the learning rate; the factors of all groups that match multiply."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decay of these tensors, norms and biases among them too; the last group that matches wins."""


class GroupSettings(Settings):
    """What is said of some of the trainable tensors."""

    layerwise_lr_decay: float | None = Field(default=None, gt=0, le=1)
    """The lower a layer, the slower it learns: the rate of block i of L, counted from 0, times this to the power L - i,
    of the embeddings L + 1; what stands behind the blocks or belongs to none keeps the rate (ELECTRA, BEiT)."""
    parameter_groups: tuple[ParameterGroup, ...] = ()
    """Rates and decays for some tensors; what no group matches keeps the section's."""


class TrainingSettings(GroupSettings):
    """Section `training`. A method's own `learning_rate`, `weight_decay` and `max_steps` win over these."""

    max_steps: int | None = Field(default=None, gt=0)
    """Optimiser steps; when absent, `num_train_epochs` decides."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """Passes over the training rows when `max_steps` is absent."""
    per_device_train_batch_size: int = Field(default=8, gt=0)
    """Sequences per rank and micro-step."""
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    """Micro-steps per optimiser step; k micro-batches of b train exactly like one batch of kb."""
    per_device_eval_batch_size: int = Field(default=16, gt=0)
    """Sequences per rank in evaluations during training."""
    learning_rate: float | None = Field(default=None, gt=0)
    """For methods that set none; when absent, each method's own default for the model's size."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """Schedule after the warm-up."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps with a linearly rising rate; `constant` has none."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled decay (not on biases and norms)."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip the gradient's norm; 0 switches clipping off."""
    neftune_noise_alpha: float | None = Field(default=None, gt=0)
    """Uniform noise on the embeddings while training, of alpha / sqrt(tokens x width) (arXiv 2310.05914)."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adafactor", "sgd"] = "adamw_torch"
    """Optimiser, by transformers' name."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Mixed precision; `auto` is bf16 on an accelerator that has it, fp32 on CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    group_by_length: bool = True
    """Batches of similar length: less padding; the order stays a function of the seed."""
    logging_steps: int = Field(default=1, gt=0)
    """Steps between logged losses; must divide `save_steps`, so that a resumed series equals an uninterrupted one."""
    eval_steps: int | None = Field(default=None, gt=0)
    """Steps between evaluations during training; when absent, only at the end."""
    auto_micro_batch: bool = False
    """Out of memory: try again with half the micro-batch and twice the micro-steps, so the global batch stays."""
    save_steps: int = Field(default=100, gt=0)
    """Steps between checkpoints."""
    save_total_limit: int = Field(default=2, gt=0)
    """Committed checkpoints to keep; never fewer than one."""
    divergence_factor: float | None = Field(default=3.0, gt=1)
    """End with exit code 30 when the loss stays above its best smoothed value times this; null never does."""
    divergence_patience: int = Field(default=20, gt=0)
    """Logged losses in a row that must be that high, and higher than the first one."""
    early_stopping_patience: int | None = Field(default=None, gt=0)
    """Stop after so many evaluations without a better loss; needs `eval_steps`."""
    keep_best: bool = False
    """Take the weights of the evaluation with the lowest loss instead of the last ones; needs `eval_steps`."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(default=(0,), min_length=1)
    """One cell per seed."""
    deterministic: bool = True
    """Deterministic algorithms: the same cell twice gives the same bytes."""
    threads_per_rank: int | None = Field(default=None, gt=0)
    """Torch threads of a rank; when absent, 1 on CPU."""

    @model_validator(mode="after")
    def _rules(self) -> TrainingSettings:
        if self.save_steps % self.logging_steps:
            raise ValueError(
                f"logging_steps: {self.logging_steps} must divide save_steps ({self.save_steps}), "
                "otherwise a resumed loss series differs from an uninterrupted one"
            )
        if self.eval_steps is None and (self.keep_best or self.early_stopping_patience):
            raise ValueError("keep_best and early_stopping_patience need eval_steps. Set training.eval_steps")
        if self.eval_steps and self.eval_steps % self.save_steps and self.keep_best:
            raise ValueError(
                f"keep_best needs a checkpoint at each evaluation: eval_steps ({self.eval_steps}) must be a multiple "
                f"of save_steps ({self.save_steps})"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} holds one seed twice")
        return self
