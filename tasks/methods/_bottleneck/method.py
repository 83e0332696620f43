"""What the methods with one bottleneck adapter share: settings, sizes, training, saving, loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._bottleneck.blocks import BlockMethod
from tasks.methods._bottleneck.shape import BottleneckShape, NonLinearity, Variant
from tasks.methods._own import OwnAdapter
from tasks.methods._rates import rate_between
from tasks.methods._values import NOTHING, Conditions, Supplies
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import nn

_USUAL_SIZE = 64
_USUAL_FACTOR = 16
_PARALLEL_SCALING = 4.0


class BottleneckMethod(BlockMethod, OwnAdapter):
    """A(z) = W_up s(W_down z + b_down) + b_up in the blocks; the base is frozen, the adapter float32."""

    variant: Variant = "houlsby"
    """`houlsby`: a + A1(a) behind the attention's projection and f + A2(f) behind the feed-forward network, each before
    its residual; `pfeiffer`: s + A(s) on the block's output; `parallel`: s A(u) beside the feed-forward network."""
    bottleneck_size: int | None = Field(default=None, gt=0)
    """m, the inner width. When neither this nor `reduction_factor` is set: d/16 for pfeiffer, else 64 (at most d)."""
    reduction_factor: int | None = Field(default=None, gt=0)
    """m = d / this, instead of `bottleneck_size`."""
    non_linearity: NonLinearity = "relu"
    """s between the two matrices; `identity` makes the adapter linear."""
    scaling: float | None = Field(default=None, gt=0)
    """Factor on A's answer; 4 for parallel, 1 for the others when absent."""
    bias: bool = True
    """b_down and b_up; without them a linear houlsby adapter can become part of the base."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the m inner activations while training."""
    init: Literal["paper", "identity"] = "paper"
    """`paper`: truncated N(0, 0.01) for houlsby, N(0, 0.02) for pfeiffer (both next to the identity), W_down uniform
    (Kaiming, a = sqrt 5) with W_up = 0 for parallel; biases 0. `identity`: W_up = 0 on top."""
    train_layer_norms: bool = False
    """Train float32 copies of these blocks' layer norms too, as Houlsby's paper does."""

    @model_validator(mode="after")
    def _one_size(self) -> BottleneckMethod:
        if self.bottleneck_size and self.reduction_factor:
            raise ValueError("bottleneck_size and reduction_factor say the same thing: set one of them")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=3e-2 if self.variant == "pfeiffer" else 1e-2, large=3e-4)

    def chosen_layers(self, count: int) -> tuple[int, ...]:
        """Which of the model's blocks have an adapter."""
        return tuple(range(count))

    def size(self, width: int) -> int:
        """m on a model of this width."""
        if self.reduction_factor:
            return width // self.reduction_factor
        usual = max(width // _USUAL_FACTOR, 1) if self.variant == "pfeiffer" else min(_USUAL_SIZE, width)
        return self.bottleneck_size or usual

    def shape(self, width: int, layers: int) -> BottleneckShape:
        """On a model of this width and number of blocks."""
        return BottleneckShape(
            variant=self.variant,
            size=self.size(width),
            non_linearity=self.non_linearity,
            scaling=self.scaling or (_PARALLEL_SCALING if self.variant == "parallel" else 1.0),
            bias=self.bias,
            layers=self.chosen_layers(layers),
            layer_norms=self.train_layer_norms,
        )

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        super().check(facts, conditions)
        if not self.size(facts.hidden_size):
            raise ConfigError(
                f"reduction_factor: {self.reduction_factor} leaves nothing of a width of {facts.hidden_size}",
                where=f"methods[{self.label}]",
                allowed=f"1 to {facts.hidden_size}",
                fix="Lower reduction_factor, or set bottleneck_size",
            )

    def refuses_engine(self, engine: str) -> str:
        if engine == "zero3" and self.train_layer_norms:
            return "train_layer_norms copies weights of the base, of which each rank then has but a part"
        return super().refuses_engine(engine)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        from tasks.methods._bottleneck.modules import Making, inject

        model.requires_grad_(False)
        inject(model, self._shape_on(model), Making(self.dropout, self.init), f"methods[{self.label}]")
        return model

    def parts(self, model: nn.Module) -> dict[str, Any]:
        return self._shape_on(model).model_dump(mode="json")

    def build(self, base: nn.Module, parts: Mapping[str, Any], where: str) -> None:
        from tasks.methods._bottleneck.modules import Making, inject

        inject(base, BottleneckShape.model_validate(parts), Making(), where)

    def base_alone(self, model: nn.Module) -> AbstractContextManager[None]:
        return _switched_off(model)

    def _shape_on(self, model: nn.Module) -> BottleneckShape:
        return self.shape(int(model.config.hidden_size), int(model.config.num_hidden_layers))


@contextmanager
def _switched_off(model: nn.Module) -> Iterator[None]:
    from tasks.methods._bottleneck.modules import switch

    switch(model, off=True)
    try:
        yield
    finally:
        switch(model, off=False)
