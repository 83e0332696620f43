"""Adapters in some blocks only."""

from __future__ import annotations

from pydantic import Field

from tasks.foundation.errors import ConfigError
from tasks.methods._bottleneck.blocks import BlockMethod
from tasks.methods._values import Conditions
from tasks.models.values import BaseModelFacts


class ChosenBlocks(BlockMethod):
    """A method whose bottlenecks need not be in every block."""

    layers_to_transform: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Only these blocks get an adapter, counted from 0 next to the input; all when absent."""

    def chosen_layers(self, count: int) -> tuple[int, ...]:
        """Those of the model's blocks, in order."""
        return tuple(range(count)) if self.layers_to_transform is None else tuple(sorted(set(self.layers_to_transform)))

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        super().check(facts, conditions)
        count = facts.num_hidden_layers
        if beyond := [index for index in self.layers_to_transform or () if not 0 <= index < count]:
            raise ConfigError(
                f"layers_to_transform: there is no block {beyond[0]}",
                where=f"methods[{self.label}]",
                allowed=f"0 to {count - 1}",
                fix="Name blocks that the model has",
            )
