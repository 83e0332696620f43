"""Partial fine-tuning: the last blocks, named modules, or only the head train; the rest is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._peft import refuse_nothing_trainable
from tasks.methods._rates import rate_between
from tasks.methods._targets import module_names
from tasks.methods._values import NOTHING, Conditions, MethodInfo, Supplies
from tasks.methods._whole import WholeModelMethod
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import nn


class Freeze(WholeModelMethod):
    """Settings of `freeze`. What the three settings name adds up."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="the last k blocks, named modules, or the head",
        paper="-",
        holds="model",
        mergeable=False,
        memory="4 N + 12 n",
        traps=("tied embeddings: training the head trains the input embedding too, they are one weight",),
    )

    kind: Literal["freeze"] = "freeze"
    num_layers: int = Field(default=2, ge=0)
    """The last so many blocks train."""
    modules: tuple[str, ...] = ()
    """Modules that train, by full name or by its last parts (`mlp.down_proj`, `norm`)."""
    head: bool = False
    """The output layer trains (with tied embeddings this is the input embedding as well)."""

    @model_validator(mode="after")
    def _something(self) -> Freeze:
        if not (self.num_layers or self.modules or self.head):
            raise ValueError("nothing would train: set num_layers above 0, modules, or head: true")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=1e-2, large=5e-5)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        if self.num_layers > facts.num_hidden_layers:
            raise ConfigError(
                f"num_layers: {self.num_layers}, the model has {facts.num_hidden_layers} blocks",
                where=f"methods[{self.label}]",
                allowed=f"0 to {facts.num_hidden_layers}",
                fix="Lower num_layers, or take {kind: full}",
            )

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        self._chosen(skeleton)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        model.float().requires_grad_(False)
        for module in self._chosen(model):
            module.requires_grad_(True)
        refuse_nothing_trainable(model, self.label)
        return model

    def _chosen(self, model: nn.Module) -> list[nn.Module]:
        chosen = [model.get_submodule(name) for name in module_names(model, self.modules, f"methods[{self.label}]")]
        chosen += list(_blocks(model))[-self.num_layers :] if self.num_layers else []
        chosen += [model.get_output_embeddings()] if self.head else []
        return chosen


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The list of the model's blocks, whatever the architecture calls it (`model.layers`, `transformer.h`, …)."""
    from torch import nn

    count = model.config.num_hidden_layers
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ConfigError("the model's blocks were not found", where="methods[freeze]", fix="Set num_layers: 0 and modules")
