"""Cross-entropy from logits, for methods whose loss is not the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.methods._values import Window

IGNORED = -100
"""Label of a position that is not answered."""


def answer_logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits that predict `labels[:, 1:]`: [rows, tokens - 1, vocabulary] in float32.

    No labels are handed to the model, so nothing that it would add to its own loss is computed. Soft prompts put
    positions in front, so the logits are aligned from the right.
    """
    features = {name: value for name, value in inputs.items() if name != "labels"}
    tokens = inputs["labels"].shape[1]
    logits: Tensor = model(**features).logits[:, -tokens:-1]
    return logits.float()


def cross_entropy_share(logits: Tensor, labels: Tensor, window: Window) -> Tensor:
    """The micro-batch's share of the step's mean cross-entropy per answer token, in nats; a scalar.

    Args:
        logits: [rows, tokens - 1, vocabulary].
        labels: [rows, tokens], -100 where masked; the first column predicts nothing.
        window: of the step; without a count of items, the mean over this micro-batch stands for it.
    """
    from torch.nn.functional import cross_entropy

    wanted = labels[:, 1:].reshape(-1)
    summed = cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted, ignore_index=IGNORED, reduction="sum")
    if window.items is None:
        return summed / (wanted != IGNORED).sum().clamp(min=1) / window.micro_batches
    return summed / window.items
