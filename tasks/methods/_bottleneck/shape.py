"""The shape of bottleneck adapters: what must be known to build their modules, and what they cost."""

from __future__ import annotations

from typing import Literal

from tasks.foundation.values import Value

Variant = Literal["houlsby", "pfeiffer", "parallel"]
NonLinearity = Literal["relu", "gelu", "silu", "tanh", "identity"]


class BottleneckShape(Value):
    """A(z) = scaling (W_up s(W_down z + b_down) + b_up), the same in every block that has one."""

    variant: Variant
    size: int
    """m: rows of W_down, columns of W_up."""
    non_linearity: NonLinearity
    scaling: float
    bias: bool
    layers: tuple[int, ...]
    """Blocks with an adapter, from 0 next to the input."""
    layer_norms: bool
    """Whether each of these blocks has layer norms of its own, trained in the place of the base's."""

    def parameters(self, width: int) -> int:
        """Of the bottlenecks alone: 2 d m + m + d each (2 d m without biases)."""
        each = 2 * width * self.size + (self.size + width) * self.bias
        return each * len(self.layers) * (2 if self.variant == "houlsby" else 1)
