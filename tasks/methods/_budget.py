"""AdaLoRA's budget beside a loss scaler: what a skipped step leaves of importance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def allocate(model: nn.Module, step: int) -> None:
    """PEFT's own allocation after an optimiser step (2303.10512, algorithm 1), whose importance stays finite.

    In fp16 the scaler skips a step in which a gradient overflowed, as it does at the start of every run. Importance is
    an average over all steps: one that is not finite would stay so, and no rank could ever be compared, so none pruned.
    Such a step weighs nothing; the budget goes on from the importance that there is, and waits while there is none.
    """
    tuner: Any = model.base_model
    if not overflowed(model):
        tuner.update_and_allocate(step)
    elif tuner.rankallocator.exp_avg_ipt or _is_settled(model, step):
        allocator = tuner.rankallocator
        weigh = allocator.update_ipt
        allocator.update_ipt = lambda model: None
        try:
            tuner.update_and_allocate(step)
        finally:
            allocator.update_ipt = weigh


def overflowed(model: nn.Module) -> bool:
    """Whether a gradient of what trains is not finite."""
    import torch

    gradients = (part.grad for part in model.parameters() if part.requires_grad)
    return not all(bool(torch.isfinite(grad).all()) for grad in gradients if grad is not None)


def _is_settled(model: nn.Module, step: int) -> bool:
    """Whether the ranks were chosen for good at an earlier step: from then on they are only held."""
    config = model.peft_config["default"]
    return bool(config.rank_pattern) and step > config.total_step - config.tfinal
