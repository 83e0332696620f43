"""Low-rank updates of linear layers: what `lora` and `qlora` share, and what they share with `adalora`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._continue import ADAPTER_CONFIG, read_config
from tasks.methods._peft import PeftMethod, wrapped
from tasks.methods._rates import rate_between
from tasks.methods._source import Source
from tasks.methods._targets import ALL_LINEAR, Targets, refuse_tied_head, short_names, smaller_side, target_layers
from tasks.methods._values import INIT_FROM, NOTHING, Conditions, Supplies
from tasks.models.values import BaseModelFacts, Quantization

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

_TAKES_OUT = ("pissa", "olora", "corda")
"""Starts that take a part of the base's weights out of them."""
_OF_THE_DATA = ("eva", "corda")
"""Starts that look at training rows."""
_OF_THE_BASE = (*_TAKES_OUT, "eva", "loftq")


class LinearAdapter(PeftMethod):
    """An update of rank r beside linear layers, wherever a method gets its ranks from."""

    lora_alpha: float = Field(default=32, gt=0)
    """Numerator of the scale."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the input of A while training."""
    target_modules: Targets = ALL_LINEAR
    """`all-linear` (all but the output layer), a list of names, or one regular expression over full names."""
    layers_to_transform: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Only these blocks, counted from 0; all when absent."""

    @model_validator(mode="after")
    def _blocks_of_an_expression(self) -> Self:
        if self.layers_to_transform and isinstance(self.target_modules, str) and self.target_modules != ALL_LINEAR:
            raise ValueError(
                "layers_to_transform does not go with an expression in target_modules. "
                "Name the blocks in the expression, or the layers as a list"
            )
        return self

    def check_sizes(self, facts: BaseModelFacts, rank_setting: str, rank: int) -> None:
        """Refuse a rank and blocks that no model of these sizes has."""
        where = f"methods[{self.label}]"
        if rank > facts.hidden_size:
            raise ConfigError(
                f"{rank_setting}: {rank} is over the model's hidden size, so nothing is low-rank about it",
                where=where,
                allowed=f"1 to {facts.hidden_size}",
                fix=f"Lower {rank_setting}",
            )
        last = facts.num_hidden_layers - 1
        if beyond := [index for index in self.layers_to_transform or () if not 0 <= index <= last]:
            raise ConfigError(
                f"layers_to_transform: the model has no block {beyond[0]}", where=where, allowed=f"0 to {last}"
            )

    def checked_layers(self, model: nn.Module, rank_setting: str, rank: int) -> dict[str, nn.Module]:
        """Full name -> layer that target_modules names, where the rank fits all of them.

        Raises:
            ConfigError: a target matches nothing or is tied, or a layer is smaller than the rank.
        """
        where = f"methods[{self.label}]"
        layers = target_layers(model, self.target_modules, where)
        refuse_tied_head(model, layers, where)
        for name, layer in layers.items():
            smallest = smaller_side(layer)
            if rank > smallest:
                raise ConfigError(
                    f"{rank_setting}: {rank} is over the smaller side ({smallest}) of {name}",
                    where=where,
                    allowed=f"1 to {smallest}, or other target_modules",
                    fix=f"Lower {rank_setting}",
                )
        return layers

    def peft_targets(self, layers: dict[str, nn.Module]) -> Any:
        """PEFT takes layers_to_transform with a list of names only."""
        if self.target_modules == ALL_LINEAR and self.layers_to_transform is not None:
            return short_names(layers)
        return self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)


class LowRankMethod(LinearAdapter):
    """W + scale * B A with A in R^{r x in}, B in R^{out x r}; scale is lora_alpha / r, or / sqrt(r) with rsLoRA.

    PiSSA, OLoRA and CorDA train W - scale * B0 A0 + scale * B A, where B0 A0 is the start. The base keeps its weights:
    what stands beside it and is saved is a plain LoRA of rank 2 r, [B, -B0] [A; A0], of which A and B train.
    """

    r: int = Field(default=16, gt=0)
    """Rank of the update."""
    use_dora: bool = False
    """Train magnitude and direction apart (arXiv 2402.09353): slower, often better at small r."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) (arXiv 2312.03732): large ranks learn as fast as small ones."""
    init_lora_weights: (
        Literal[True, "gaussian", "orthogonal", "pissa", "olora", "eva", "corda", "loftq"]
        | Annotated[str, Field(pattern=r"^pissa_niter_[1-9]\d*$")]
    ) = True
    """Start: A Kaiming uniform (true) or Gaussian with B = 0; both orthogonal; the weights' own principal part (pissa,
    or pissa_niter_N by N rounds of a fast SVD: 2404.02948), Q R (olora: 2406.01775); A along the inputs' principal
    directions (eva: 2410.07170); the part that answers the training rows most (corda, instruction-previewed:
    2406.05223); or what the quantisation of the base lost (loftq: 2310.08659)."""
    rho: float | None = Field(default=None, ge=1)
    """With eva: a layer's rank may become up to rho * r (2 when absent), at the cost of others; 1 leaves all at r."""
    init_rows: int | None = Field(default=None, gt=0)
    """With eva and corda: training rows that the start looks at; 256 when absent."""
    loraplus_lr_ratio: float | None = Field(default=None, ge=1)
    """LoRA+ (arXiv 2402.12354): B learns at so many times `learning_rate`, which is A's; the paper takes 16."""

    @property
    def scale(self) -> float:
        """Factor on B A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def start(self) -> str:
        """The start by the name of its family; empty for those that PEFT makes from nothing but torch's seed."""
        name = str(self.init_lora_weights).partition("_niter_")[0]
        return name if name in _OF_THE_BASE else ""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        name = self.init_lora_weights
        if name == "orthogonal" and self.r % 2:
            raise ValueError("init_lora_weights: orthogonal needs an even r: A and B get half of its directions each")
        if self.start and self.start != "loftq" and self.init_from is not None:
            raise ValueError(
                f"init_from takes an earlier adapter's weights, and init_lora_weights: {name} the base's. Remove one"
            )
        if self.start in _TAKES_OUT and self.use_dora:
            raise ValueError(
                f"use_dora does not go with init_lora_weights: {name}: its magnitudes are those of whole weights, and "
                "this start takes a part out of them. Remove one, or take init_lora_weights: eva"
            )
        if self.rho is not None and self.start != "eva":
            raise ValueError(f"rho: {self.rho} is read with init_lora_weights: eva only. Remove it")
        if self.init_rows is not None and self.start not in _OF_THE_DATA:
            raise ValueError(f"init_rows: {self.init_rows} is read with init_lora_weights: eva and corda. Remove it")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """With LoRA+ it is A's: B learns as it would without."""
        small, large = 1e-2, 2e-4
        if self.use_dora or self.use_rslora or self.start in _TAKES_OUT:
            small, large = 5e-3 if self.use_dora and not self.use_rslora else 3e-3, 1e-4
        return rate_between(facts, small=small, large=large) / (self.loraplus_lr_ratio or 1.0)

    def learning_rate_scale(self, name: str) -> float:
        return self.loraplus_lr_ratio if self.loraplus_lr_ratio and ".lora_B." in name else 1.0

    def refuses_engine(self, engine: str) -> str:
        if self.start and engine in ("zero3", "fsdp2"):
            return f"init_lora_weights: {self.init_lora_weights} needs whole weights, and here each rank has a part"
        return super().refuses_engine(engine)

    def refuses_quantization(self, quantization: Quantization) -> str:
        if self.start in _TAKES_OUT:
            return (
                f"init_lora_weights: {self.init_lora_weights} takes a part out of the weights, and the rest would have "
                "to be quantised anew (take loftq or eva, or keep the base in floats)"
            )
        if self.init_lora_weights == "orthogonal":
            return "init_lora_weights: orthogonal makes A and B in the dtype of the weights, integers (take gaussian)"
        if self.use_dora and quantization.bits == 8:
            return "use_dora: PEFT loses the scales of 8-bit weights when it measures DoRA's magnitudes (take nf4)"
        return super().refuses_quantization(quantization)

    def unmergeable(self) -> str:
        if self.start == "loftq":
            return "a LoftQ adapter makes good what quantisation lost, and the float base has lost nothing"
        return super().unmergeable()

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        self.check_sizes(facts, "r", self.r)
        if self.start == "loftq" and conditions.quantization is None:
            raise ConfigError(
                "init_lora_weights: loftq makes good what quantisation lost, and this base is in floats",
                where=f"methods[{self.label}]",
                fix="Take {kind: qlora}, or set model.quantization: nf4",
            )

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import LoraConfig

        layers = self.checked_layers(model, "r", self.r)
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.peft_targets(layers),
            layers_to_transform=list(self.layers_to_transform) if self.layers_to_transform is not None else None,
            use_dora=self.use_dora,
            use_rslora=self.use_rslora,
            init_lora_weights=True if self.start else self.init_lora_weights,
        )

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        """As PEFT does it; then A and B get their start where that follows from the base.

        Raises:
            ConfigError: the targets or the rank do not fit the base, or a start of the data has no rows.
        """
        config = self.peft_config(model)
        if not self.start or INIT_FROM in supplies.sources:
            return wrapped(model, with_ranks_of(supplies.sources.get(INIT_FROM), config), self.label)
        from tasks.methods._lora import init as starts

        layers = self._chosen(model, config)
        found = starts.find(self, model, layers, supplies)
        if self.start in _TAKES_OUT:
            attached = wrapped(model, starts.doubled(config, self.scale), self.label)
            starts.take_out(attached, found)
        else:
            attached = wrapped(model, starts.fitted(config, found, self.scale), self.label)
            starts.put(attached, found)
        return attached

    def start_from(self, model: nn.Module, source: Source) -> None:
        """As any adapter; what began with LoftQ has to go on saying so, since that decides that it is never merged."""
        began = (source.method or {}).get("init_lora_weights")
        if began == "loftq" and self.start != "loftq":
            raise ConfigError(
                f"{source.reference} is a LoftQ adapter, which corrects a quantised base and fits no other",
                where=f"methods[{self.label}].{INIT_FROM}",
                fix="Set init_lora_weights: loftq beside init_from, which takes its weights and keeps it from a merge",
            )
        super().start_from(model, source)

    def _chosen(self, model: nn.Module, config: PeftConfig) -> dict[str, nn.Module]:
        """The layers that PEFT will choose, by PEFT's own rule where it chooses blocks."""
        from peft.tuners.tuners_utils import check_target_module_exists

        layers = target_layers(model, self.target_modules, f"methods[{self.label}]")
        if self.layers_to_transform is None:
            return layers
        return {name: layer for name, layer in layers.items() if check_target_module_exists(config, name)}

    def adapter_tensors(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.start in _TAKES_OUT:
            from tasks.methods._lora.init import as_plain_lora

            tensors = as_plain_lora(model, tensors)
        return super().adapter_tensors(model, tensors)

    def training_state(self, model: nn.Module) -> Mapping[str, Tensor]:
        """What was taken out: a run that goes on must not depend on finding the same start again."""
        if self.start not in _TAKES_OUT:
            return {}
        from tasks.methods._lora.init import taken_out

        return taken_out(model)

    def restore_training_state(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        if self.start in _TAKES_OUT:
            from tasks.methods._lora.init import take_up

            take_up(model, tensors)

    @property
    def tells(self) -> bool:
        return self.start == "eva" or bool(self.sizes())

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        """The ranks, where EVA has shared them out anew."""
        if self.start != "eva":
            return {}
        ranks = ((name, module.r) for name, module in model.named_modules() if hasattr(module, "lora_A"))
        return {f"rank/{name.removeprefix('base_model.model.')}": float(r["default"]) for name, r in ranks}


def with_ranks_of(source: Source | None, config: PeftConfig) -> PeftConfig:
    """The configuration with the ranks that EVA gave to the layers of an earlier adapter, where it did."""
    saved = read_config(source) if source and (source.path / ADAPTER_CONFIG).is_file() else {}
    if saved.get("rank_pattern") and saved.get("r") == config.r:
        config.rank_pattern, config.alpha_pattern = saved["rank_pattern"], saved["alpha_pattern"]
        config.target_modules, config.layers_to_transform = saved["target_modules"], None
    return config
