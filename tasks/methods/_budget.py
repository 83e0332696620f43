"""AdaLoRA's budget: its allocation beside a loss scaler, and ranks that were pruned earlier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.methods._continue import SavedAdapter

UNWRAPPED: Final = "base_model.model."
"""Before the name of a layer, where PEFT has wrapped the base."""


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
        tuner.rankallocator.update_ipt = lambda model: None
        try:
            tuner.update_and_allocate(step)
        finally:
            del tuner.rankallocator.update_ipt


def overflowed(model: nn.Module) -> bool:
    """Whether a gradient of what trains is not finite."""
    import torch

    gradients = [part.grad for part in model.parameters() if part.requires_grad and part.grad is not None]
    largest = torch.nn.utils.get_total_norm(gradients, float("inf"))  # one look at the device, not one per tensor
    return not bool(torch.isfinite(largest))


def _is_settled(model: nn.Module, step: int) -> bool:
    """Whether the ranks were chosen for good at an earlier step: from then on they are only held."""
    config = model.peft_config["default"]
    return bool(config.rank_pattern) and step > config.total_step - config.tfinal


def with_pruned_ranks(parameters: Mapping[str, nn.Parameter], saved: SavedAdapter) -> Mapping[str, Tensor]:
    """The saved tensors at the full ranks: a pruned one begins as in a fresh adapter, lambda 0, P and Q at random.

    Args:
        parameters: PEFT's saved name -> the fresh parameter.
        saved: the earlier adapter, whose pattern says which ranks it kept.
    """
    import torch

    full = {name: part.detach().clone() for name, part in parameters.items()}
    pattern = saved.config.get("rank_pattern") or {}
    layers = {name.removesuffix(".lora_E") for name in full if name.endswith(".lora_E")}
    if {UNWRAPPED + name.removesuffix(".lora_E") for name in pattern} != layers:
        return saved.tensors  # nothing was pruned, or of other targets: those are refused by their names
    for name, kept in pattern.items():
        layer, mask = UNWRAPPED + name.removesuffix(".lora_E"), torch.tensor(kept)
        for part, chosen in (("lora_E", mask), ("lora_A", mask), ("lora_B", (slice(None), mask))):
            whole = full[f"{layer}.{part}"]
            whole[chosen] = saved.tensors[f"{layer}.{part}"].to(whole.device)
    return full
