"""What `lora` and `qlora` share: low-rank updates of linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Conditions
from tasks.methods._peft import PeftMethod
from tasks.methods._rates import rate_between
from tasks.methods._targets import ALL_LINEAR, Targets, refuse_tied_head, short_names, smaller_side, target_layers
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class LowRankMethod(PeftMethod):
    """W + scale * B A with A in R^{r x in}, B in R^{out x r}; scale is lora_alpha / r, or / sqrt(r) with rsLoRA."""

    r: int = Field(default=16, gt=0)
    """Rank of the update."""
    lora_alpha: float = Field(default=32, gt=0)
    """Numerator of the scale."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the input of A while training."""
    target_modules: Targets = ALL_LINEAR
    """`all-linear` (all but the output layer), a list of names, or one regular expression over full names."""
    layers_to_transform: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Only these blocks, counted from 0; all when absent."""
    use_dora: bool = False
    """Train magnitude and direction apart (arXiv 2402.09353): slower, often better at small r."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) (arXiv 2312.03732): large ranks learn as fast as small ones."""
    init_lora_weights: Literal[True, "gaussian", "orthogonal"] = True
    """Start of A (Kaiming uniform, Gaussian) with B = 0, or both orthogonal."""

    @model_validator(mode="after")
    def _blocks_of_an_expression(self) -> Self:
        if self.layers_to_transform and isinstance(self.target_modules, str) and self.target_modules != ALL_LINEAR:
            raise ValueError(
                "layers_to_transform does not go with an expression in target_modules. "
                "Name the blocks in the expression, or the layers as a list"
            )
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        if self.use_dora or self.use_rslora:
            return rate_between(facts, small=3e-3 if self.use_rslora else 5e-3, large=1e-4)
        return rate_between(facts, small=1e-2, large=2e-4)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        where = f"methods[{self.label}]"
        if self.r > facts.hidden_size:
            raise ConfigError(
                f"r: {self.r} is over the model's hidden size, so nothing is low-rank about it",
                where=where,
                allowed=f"1 to {facts.hidden_size}",
                fix="Lower r",
            )
        last = facts.num_hidden_layers - 1
        if beyond := [index for index in self.layers_to_transform or () if not 0 <= index <= last]:
            raise ConfigError(
                f"layers_to_transform: the model has no block {beyond[0]}", where=where, allowed=f"0 to {last}"
            )

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import LoraConfig

        where = f"methods[{self.label}]"
        layers = target_layers(model, self.target_modules, where)
        refuse_tied_head(model, layers, where)
        self._check_rank(layers, where)
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self._peft_targets(layers),
            layers_to_transform=list(self.layers_to_transform) if self.layers_to_transform is not None else None,
            use_dora=self.use_dora,
            use_rslora=self.use_rslora,
            init_lora_weights=self.init_lora_weights,
        )

    def _peft_targets(self, layers: dict[str, nn.Module]) -> Any:
        """PEFT takes layers_to_transform with a list of names only."""
        if self.target_modules == ALL_LINEAR and self.layers_to_transform is not None:
            return short_names(layers)
        return self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)

    def _check_rank(self, layers: dict[str, nn.Module], where: str) -> None:
        for name, layer in layers.items():
            smallest = smaller_side(layer)
            if self.r > smallest:
                raise ConfigError(
                    f"r: {self.r} is over the smaller side ({smallest}) of {name}",
                    where=where,
                    allowed=f"1 to {smallest}, or other target_modules",
                    fix="Lower r",
                )
