"""AdapterDrop: bottleneck adapters without those of the lowest blocks, for good or anew in each step."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._bottleneck.blocks import FAMILIES
from tasks.methods._bottleneck.method import BottleneckMethod
from tasks.methods._bottleneck.shape import Variant
from tasks.methods._values import Conditions, MethodInfo, Moment
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import nn

_QUARTERS = (0, 25, 50, 75)
"""Per cent of the blocks."""


class AdapterDrop(BottleneckMethod):
    """Settings of `adapter_drop`. It is not dropout: whole adapters are left out, always the lowest ones.

    `robust` draws n anew for each optimiser step, evenly from 0 to L - 1, from seed and step alone: the same on all
    ranks and in a resumed run. Adapters below n then add zero times their answer, so their gradients are zeros, not
    missing (AdamW still moves them a little, by momentum): engines that add gradients up need all of them. The base's
    blocks below n are still passed backwards; only `specialised` saves that.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="bottleneck adapters but for the lowest n blocks, n fixed or drawn per step",
        paper="2010.11918",
        holds="adapter",
        mergeable=False,
        memory="b N + 16 n', b bytes per base weight, n' = (L - n) (2 d m + m + d), twice that for houlsby; robust: "
        "n = 0",
        quantized_base=True,
        families=FAMILIES,
        traps=(
            "a plain adapter collapses when its lowest layers are left out: mode: specialised with drop: 0 is one",
            "robust costs as much as a plain adapter while it trains; what it saves is at serving",
        ),
    )

    kind: Literal["adapter_drop"] = "adapter_drop"
    variant: Variant = "pfeiffer"
    """As in `adapter`: `houlsby`, `pfeiffer` or `parallel`."""
    mode: Literal["robust", "specialised"] = "robust"
    """`robust`: every n can be served; `specialised`: the lowest `drop` blocks never have an adapter."""
    drop: int | None = Field(default=None, ge=0)
    """n of `specialised`; nothing is passed backwards below it."""
    drops: tuple[int, ...] | None = None
    """The n at which the result is evaluated, each a size of its own. When absent: no, a quarter, half and three
    quarters of the blocks for `robust`, none but its own for `specialised`."""

    @model_validator(mode="after")
    def _own_settings(self) -> AdapterDrop:
        if (self.mode == "specialised") != (self.drop is not None):
            raise ValueError("drop belongs to mode: specialised, which needs it")
        if self.drops is not None and list(self.drops) != sorted(set(self.drops)):
            raise ValueError(f"drops: {list(self.drops)} must rise, each once")
        if self.drops and self.drops[0] < (self.drop or 0):
            raise ValueError(f"drops: {self.drops[0]} adapters cannot be left out where {self.drop or 0} always are")
        return self

    def chosen_layers(self, count: int) -> tuple[int, ...]:
        return tuple(range(self.drop or 0, count))

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        super().check(facts, conditions)
        count = facts.num_hidden_layers
        if beyond := [n for n in (self.drop or 0, *(self.drops or ())) if n >= count]:
            raise ConfigError(
                f"{beyond[0]} of {count} adapters left out leaves none",
                where=f"methods[{self.label}]",
                allowed=f"0 to {count - 1}",
                fix="Lower drop and drops",
            )

    def before_step(self, model: nn.Module, moment: Moment) -> None:
        """Draw n for this step."""
        if self.mode == "robust":
            from tasks.methods._bottleneck.modules import adapters_in

            adapters = list(adapters_in(model))
            lowest = drawn_depth(moment, len(adapters))
            for adapter in adapters:
                adapter.drawn_out = adapter.index < lowest

    def sizes(self) -> tuple[str, ...]:
        """`drop n` for each of `drops`, or shares of the depth as `drop p%`; the largest adapter first."""
        if self.drops is not None:
            return tuple(f"drop {n}" for n in self.drops)
        return tuple(f"drop {share}%" for share in _QUARTERS) if self.mode == "robust" else ()

    def set_size(self, model: nn.Module, size: str) -> None:
        """Leave the adapters below block n out; `drop p%` is n = floor(p L / 100).

        Raises:
            ConfigError: it is no size, or would leave no adapter.
        """
        from tasks.methods._bottleneck.modules import adapters_in

        count = int(model.config.num_hidden_layers)
        lowest = _lowest(size, count)
        if lowest is None or not 0 <= lowest < count:
            raise ConfigError(
                f"{size!r} is no size of {self.label}",
                where=f"methods[{self.label}]",
                allowed=f"drop 0 to drop {count - 1}, or drop 0% to drop 99%",
            )
        for adapter in adapters_in(model):
            adapter.left_out = adapter.index < lowest


def drawn_depth(moment: Moment, layers: int) -> int:
    """n of this step, evenly from 0 to layers - 1."""
    return random.Random(f"{moment.seed}:{moment.step}").randrange(layers)


def _lowest(size: str, count: int) -> int | None:
    number = size.removeprefix("drop ")
    if number == size or not number.removesuffix("%").isdecimal():
        return None
    return int(number[:-1]) * count // 100 if number.endswith("%") else int(number)
