"""Pruning: the smallest weights of the base go, and a low-rank update recovers what was lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._pruning.channels import FAMILIES, feed_forward, remove_channels
from tasks.methods._rates import rate_between
from tasks.methods._targets import ALL_LINEAR, smaller_side, target_layers
from tasks.methods._values import NOTHING, Conditions, MethodInfo, Supplies
from tasks.methods._whole import WholeModelMethod
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn


class Pruning(WholeModelMethod):
    """Settings of `pruning`.

    Unstructured, single weights become zero and stay zero: (W + lora_alpha / r B A) * M with M fixed, chosen by
    magnitude as `torch.nn.utils.prune` does. Structured, whole inner channels of the feed-forward blocks are taken out
    by their L2 norm, and W + lora_alpha / r B A recovers. Both leave a standard model that needs no code of ours.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="a low-rank update of the pruned linear layers",
        paper="-",
        holds="model",
        mergeable=False,
        memory="2 b N (the weights, and those that compute, held for the backward pass; of the latter one block's with "
        "gradient checkpointing) + N (mask) + 16 n, n = r (in + out) per layer",
        refuses={"zero3": "the smallest weights are found in whole layers, and each rank loads a part of every one"},
        families=f"unstructured: all; structured: {', '.join(FAMILIES)}",
        traps=(
            "zeros do not make a dense model smaller or faster on usual hardware; structured pruning does",
            "a weight that is pruned stays zero: the update is masked too, so it cannot bring it back",
            "scope: global compares magnitudes across layers, so a layer of small weights can lose nearly all of them",
            "amount counts the linear layers but the output layer, or the feed-forward's channels, not all parameters",
        ),
    )

    kind: Literal["pruning"] = "pruning"
    amount: float = Field(default=0.5, gt=0, lt=1)
    """Share that goes: of the weights (unstructured) or of the feed-forward's inner channels (structured)."""
    structure: Literal["unstructured", "structured"] = "unstructured"
    """Single weights become zero, or channels disappear and `intermediate_size` shrinks."""
    scope: Literal["layer", "global"] = "layer"
    """Unstructured: the same share in every layer, or one threshold for all."""
    r: int = Field(default=16, gt=0)
    """Rank of the update that recovers."""
    lora_alpha: float = Field(default=32, gt=0)
    """Numerator of its scale lora_alpha / r."""

    @model_validator(mode="after")
    def _what_cannot_be_meant(self) -> Self:
        if self.structure == "structured" and self.scope == "global":
            raise ValueError("structured takes as many channels from every layer, so scope: global has no meaning")
        if self.init_from is not None:
            raise ValueError("pruning starts from the model. To prune an earlier result, name it as the model")
        return self

    @property
    def scale(self) -> float:
        return self.lora_alpha / self.r

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=1e-2, large=2e-4)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        where = f"methods[{self.label}]"
        if self.structure == "structured":
            feed_forward(facts.model_type, where)
        if self.r > facts.hidden_size:
            raise ConfigError(
                f"r: {self.r} is over the model's hidden size",
                where=where,
                allowed=f"1 to {facts.hidden_size}",
                fix="Lower r",
            )

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        """Against the layers as they are before channels are taken out: those that are left are no larger."""
        where = f"methods[{self.label}]"
        self._refuse_rank(target_layers(skeleton, ALL_LINEAR, where), where)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        """Prune, freeze what is left, and put an update on every linear layer but the output layer."""
        from tasks.methods._pruning.masked import add_updates

        where = f"methods[{self.label}]"
        model.requires_grad_(False)
        if self.structure == "structured":
            remove_channels(model, self.amount, where)
        layers = target_layers(model, ALL_LINEAR, where)
        self._refuse_rank(layers, where)
        add_updates(layers, self._masks(layers), self.r, self.scale)
        return model

    def _refuse_rank(self, layers: Mapping[str, nn.Module], where: str) -> None:
        for name, layer in layers.items():
            if self.r > (smallest := smaller_side(layer)):
                raise ConfigError(
                    f"r: {self.r} is over the smaller side ({smallest}) of {name}",
                    where=where,
                    allowed=f"1 to {smallest}",
                    fix="Lower r, or amount",
                )

    def _masks(self, layers: Mapping[str, nn.Module]) -> Mapping[str, Tensor]:
        from tasks.methods._pruning.masked import global_masks, layer_masks

        if self.structure == "structured":
            return {}
        return layer_masks(layers, self.amount) if self.scope == "layer" else global_masks(layers, self.amount)

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """A complete standard model with its zeros in place, or with a smaller feed-forward."""
        from tasks.methods._pruning.masked import dense

        super().save(model, folder, dense(tensors, self.scale))
        if self.structure == "structured":
            self._write_width(model, folder / "config.json")

    def _write_width(self, model: nn.Module, path: Path) -> None:
        """The base's configuration, with the width that is left."""
        setting = feed_forward(model.config.model_type, f"methods[{self.label}]").setting
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config[setting] = getattr(model.config, setting)
        path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        """Share of zeros of each linear layer (`sparsity/<layer>`) and of all together; parameters of the whole."""
        from tasks.methods._pruning.masked import sparsity

        found = sparsity(target_layers(model, ALL_LINEAR, f"methods[{self.label}]"))
        count = sum(part.numel() for part in model.parameters())
        return {f"sparsity/{name}": share for name, share in found.items()} | {"parameters": float(count)}
