"""Load a candidate: the base with what a method made of it, ready for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.foundation.errors import IntegrityError
from tasks.methods._candidate import Candidate
from tasks.methods._quantized import base_quantization
from tasks.methods._registry import parse_method

if TYPE_CHECKING:
    from torch import nn


def load_candidate(candidate: Candidate, *, device: str = "cpu", float_base: bool = False) -> nn.Module:
    """The candidate in eval mode on one device.

    Args:
        float_base: True loads the base in its float dtype where the method trained on a quantised one (merge, proof).

    Raises:
        IntegrityError: the weights folder is missing or does not fit.
        ModelError: the base cannot be loaded.
    """
    from tasks.models.loading import load_base

    base, weights = candidate.base, candidate.weights
    if candidate.holds == "nothing":
        return load_base(base, quantization=base.quantization, device=device).requires_grad_(False)
    if weights is None or not weights.is_dir():
        raise IntegrityError(f"{candidate.label} has no weights", where=str(weights), fix="Train the cell again")
    if candidate.holds == "model":
        return load_base(base.model_copy(update={"path": weights}), device=device).requires_grad_(False)
    method = parse_method(candidate.method)
    loaded = load_base(
        base, quantization=None if float_base else base_quantization(method, base.quantization), device=device
    )
    return method.load(loaded, weights)
