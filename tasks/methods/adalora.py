"""AdaLoRA: P Lambda Q updates whose ranks move to the layers that need them, within one budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._budget import UNWRAPPED, allocate, with_pruned_ranks
from tasks.methods._continue import SavedAdapter, places
from tasks.methods._lora.method import LinearAdapter
from tasks.methods._loss import answer_logits, cross_entropy_share
from tasks.methods._rates import rate_between
from tasks.methods._values import Conditions, MethodInfo, Moment, StepLoss, Window
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

_NO_GRADIENTS = "its ranks follow weight x gradient, and here a step's gradients are gone when it has been taken"
_SHARED = "its ranks follow weight x gradient over whole tensors, and here each rank has a part"
_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""What PEFT's allocator remembers of each tensor: sensitivity and its uncertainty."""
_PATTERN = "rank_pattern"


class Schedule(NamedTuple):
    """In optimiser steps."""

    first: int
    """All ranks train."""
    last: int
    """Only what is left trains; in between, the budget falls by a cubic."""
    total: int


class AdaLora(LinearAdapter):
    """Settings of `adalora`, under PEFT's own names. W + lora_alpha / init_r * P diag(lambda) Q on linear layers.

    A lambda whose importance (2303.10512, equations 8 to 12) is among the least of all layers becomes 0; the budget
    falls from init_r to target_r per layer on average. What is trained on is cross-entropy + orth_reg_weight * mean
    over all P and Q of the Frobenius norm of P^T P - I; what is reported is the cross-entropy alone.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="P Lambda Q with a rank budget moved by importance",
        paper="2303.10512",
        holds="adapter",
        mergeable=True,
        memory="b N + 24 n, b bytes per base weight, n = init_r (in + out + 1) per layer (two averages of importance)",
        quantized_base=True,
        refuses=dict.fromkeys(("zero0", "zero1", "zero2"), _NO_GRADIENTS) | dict.fromkeys(("zero3", "fsdp2"), _SHARED),
        traps=(
            "prunes only where the budget is told of every step: many tools leave it plain",
            "its own loss holds the penalty, also in evaluation: reported is true cross-entropy",
            "a layer may end with rank 0",
        ),
    )

    kind: Literal["adalora"] = "adalora"
    init_r: int = Field(default=12, gt=0)
    """Rank of each layer at the start."""
    target_r: int = Field(default=8, gt=0)
    """Average rank of the layers at the end."""
    tinit: float = Field(default=0.1, ge=0)
    """Steps before the budget falls; below 1, a share of all optimiser steps."""
    tfinal: float = Field(default=0.3, ge=0)
    """Steps after the budget has fallen; below 1, a share of all optimiser steps."""
    deltaT: int = Field(default=1, gt=0)  # noqa: N815 - PEFT's name
    """Steps between two allocations."""
    beta1: float = Field(default=0.85, gt=0, lt=1)
    """Smoothing of the sensitivity |weight x gradient|."""
    beta2: float = Field(default=0.85, gt=0, lt=1)
    """Smoothing of its uncertainty."""
    orth_reg_weight: float = Field(default=0.5, ge=0)
    """Weight of the penalty that keeps P and Q orthogonal."""

    @model_validator(mode="after")
    def _a_budget_that_falls(self) -> Self:
        if self.target_r >= self.init_r:
            raise ValueError(
                f"target_r: {self.target_r} leaves nothing to prune from init_r: {self.init_r}. "
                "Lower target_r, or take {kind: lora}"
            )
        for name, value in (("tinit", self.tinit), ("tfinal", self.tfinal)):
            if value >= 1 and value != int(value):
                raise ValueError(f"{name}: {value} is neither a share below 1 nor a whole number of steps")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=3e-2, large=1e-3)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        self.check_sizes(facts, "init_r", self.init_r)

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import AdaLoraConfig

        layers = self.checked_layers(model, "init_r", self.init_r)
        return AdaLoraConfig(
            task_type="CAUSAL_LM",
            init_r=self.init_r,
            target_r=self.target_r,
            tinit=0,
            tfinal=0,
            total_step=1,  # PEFT wants one now; the first step knows better
            deltaT=self.deltaT,
            beta1=self.beta1,
            beta2=self.beta2,
            orth_reg_weight=self.orth_reg_weight,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.peft_targets(layers),
            layers_to_transform=list(self.layers_to_transform) if self.layers_to_transform is not None else None,
        )

    # --- training -------------------------------------------------------------------------------------------------

    def schedule(self, total: int) -> Schedule:
        """The three phases of a run of `total` optimiser steps.

        Raises:
            ConfigError: no step is left between the first and the last phase.
        """
        first, last = self._phases(total)
        if not self._moves(total):
            enough = next(steps for steps in count(total) if self._moves(steps))
            raise ConfigError(
                f"the run has {total} optimiser steps: between tinit ({first}) and tfinal ({last}) no rank could move",
                where=f"methods[{self.label}]",
                fix=f"Train for at least {enough} steps, or lower tinit and tfinal",
            )
        return Schedule(first, last, total)

    def _phases(self, total: int) -> tuple[int, int]:
        """Steps of the first and of the last phase."""
        first, last = (round(share * total) if share < 1 else int(share) for share in (self.tinit, self.tfinal))
        return first, last

    def _moves(self, total: int) -> bool:
        """Importance needs a step before the last allocation can follow it."""
        first, last = self._phases(total)
        return total - last > max(first, 1)

    def before_step(self, model: nn.Module, moment: Moment) -> None:
        """Tell PEFT the real number of steps, which it wants before it can be known."""
        schedule = self.schedule(moment.total_steps)
        config = model.peft_config["default"]
        config.tinit, config.tfinal, config.total_step = schedule.first, schedule.last, schedule.total

    def training_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], window: Window) -> StepLoss:
        loss = cross_entropy_share(answer_logits(model, inputs), inputs["labels"], window)
        return StepLoss(loss + self.orth_reg_weight / window.micro_batches * orthogonality(model), loss)

    def after_optimizer_step(self, model: nn.Module, moment: Moment) -> None:
        """Weigh what has just moved, and set the least important lambdas to 0."""
        allocate(model, moment.step)

    def training_state(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Importance so far, and which ranks are left."""
        import torch

        allocator = model.base_model.rankallocator
        state = {
            f"{average}.{name}": tensor for average in _AVERAGES for name, tensor in getattr(allocator, average).items()
        }
        pattern = model.peft_config["default"].rank_pattern or {}
        return state | {f"{_PATTERN}.{name}": torch.tensor(kept) for name, kept in pattern.items()}

    def restore_training_state(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        allocator = model.base_model.rankallocator
        allocator.reset_ipt()
        devices = {name: part.device for name, part in model.base_model.model.named_parameters()}
        pattern = {}
        for full, tensor in tensors.items():
            kind, _, name = full.partition(".")
            if kind == _PATTERN:
                pattern[name] = tensor.tolist()
            else:
                getattr(allocator, kind)[name] = tensor.to(devices[name])
                allocator.ipt[name] = tensor.to(
                    devices[name]
                )  # made anew at each step; without it the averages start over
        model.peft_config["default"].rank_pattern = pattern or None

    # --- what is left ---------------------------------------------------------------------------------------------

    def adapter_tensors(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the rows and columns whose lambda is 0, whichever step the tensors are of.

        Their pattern goes into the configuration, by which PEFT gives the layers their ranks again.
        """
        config = model.peft_config["default"]
        config.rank_pattern = {
            name.removeprefix(UNWRAPPED).removesuffix(".default"): (tensor != 0).view(-1).tolist()
            for name, tensor in tensors.items()
            if ".lora_E." in name
        }
        return super().adapter_tensors(model, tensors)

    def starting_tensors(self, model: nn.Module, saved: SavedAdapter) -> Mapping[str, Tensor]:
        """Ranks that were pruned begin as in a fresh adapter."""
        return with_pruned_ranks(places(self, model), saved)

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        """The rank of each layer."""
        return {f"rank/{name}": float(len(values)) for name, values in _lambdas(model)}


def orthogonality(model: nn.Module) -> Tensor:
    """Mean over all P [out, r] and Q [r, in] of ||P^T P - I||_F and ||Q Q^T - I||_F; a scalar."""
    import torch

    norms = []
    for name, part in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            gram = part @ part.T if ".lora_A." in name else part.T @ part
            norms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
    return torch.stack(norms).mean()


def _lambdas(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name of each adapted layer in the base, and its lambdas."""
    for name, module in model.named_modules():
        if "default" in getattr(module, "lora_E", ()):
            yield name.removeprefix(UNWRAPPED), module.lora_E["default"]
