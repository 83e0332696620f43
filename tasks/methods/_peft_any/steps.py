"""What some PEFT types need at every optimiser step, and what they add to the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.methods._budget import allocate, overflowed
from tasks.methods._loss import IGNORED, cross_entropy_share
from tasks.methods._peft import PeftMethod
from tasks.methods._peft_any.subspaces import move_subspaces, restore_subspaces, subspace_state
from tasks.methods._peft_any.types import is_set
from tasks.methods._values import Moment, StepLoss, Window

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADAPTER = "default"
_PENALISED = frozenset({"ADALORA", "CPT", "SHADOW"})
"""Types that add something to the model's own loss (orthogonality, the context's labels, a second network's loss)."""
_REGULARISED = {"kasa_config": "_get_kasa_loss", "monteclora_config": "_get_monteclora_loss"}
"""Field of a LoRA variant -> the term that PEFT computes and leaves to the training loop to add."""
_ADALORA_STATE = ("exp_avg_ipt", "exp_avg_unc")
_DEFAULT_SHARES = (0.1, 0.3)
"""Of the steps: before AdaLoRA's budget sinks, and after it has sunk, where the file says nothing."""


class SteppedPeft(PeftMethod):
    """Calls what PEFT documents as the training loop's own duty."""

    config: dict[str, Any] = Field(default_factory=dict)
    """What `adapter_config.json` says, `peft_type` first of all; `path` reads it from a file instead."""

    @property
    def peft_type(self) -> str:
        return str(self.config.get("peft_type", ""))

    def before_step(self, model: nn.Module, moment: Moment) -> None:
        """AdaLoRA's schedule is stretched to the steps that will be taken: the file's belongs to another run."""
        if self.peft_type == "ADALORA":
            settings = model.peft_config[_ADAPTER]
            tinit, tfinal = self._schedule(moment.total_steps)
            settings.total_step, settings.tinit, settings.tfinal = moment.total_steps, tinit, tfinal

    def _schedule(self, steps: int) -> tuple[int, int]:
        """Steps before the budget sinks and after it has sunk, in the proportions of the file."""
        total = self.config.get("total_step")
        shares = [self.config.get(name, 0) / total for name in ("tinit", "tfinal")] if total else _DEFAULT_SHARES
        tinit, tfinal = (round(share * steps) for share in shares)
        tfinal = max(0, min(tfinal, steps - 2))
        return max(0, min(tinit, steps - tfinal - 1)), tfinal

    def training_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], window: Window) -> StepLoss | None:
        """Cross-entropy, and apart from it what the type adds; None where it adds nothing."""
        regularised = [term for name, term in _REGULARISED.items() if is_set(self.config, name)]
        if self.peft_type not in _PENALISED and not regularised:
            return None
        output = model(**inputs)
        labels = inputs["labels"]
        logits = output.logits[:, -labels.shape[1] : -1].float()
        share = cross_entropy_share(logits, labels, window)
        if not bool((labels != IGNORED).any()):
            return StepLoss(share, share.detach())
        penalty = sum(getattr(_tuner(model), term)() for term in regularised)
        if self.peft_type in _PENALISED:
            penalty = penalty + output.loss - cross_entropy_share(logits, labels, Window(None, 1))
        return StepLoss(share + penalty / window.micro_batches, share.detach())

    def after_optimizer_step(self, model: nn.Module, moment: Moment) -> None:
        """AdaLoRA moves its ranks, AdaMSS (with `use_asa`) its subspaces; both read the gradients of the step."""
        if self.peft_type == "ADALORA":
            if moment.total_steps > 1:  # importance is an average over earlier steps
                allocate(model, moment.step)
        elif self._moves_subspaces and not overflowed(model):
            move_subspaces(_tuner(model), moment.step)

    @property
    def _moves_subspaces(self) -> bool:
        return self.peft_type == "ADAMSS" and bool(self.config.get("use_asa"))

    def training_state(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The importance of each rank or subspace as it was averaged so far, and the ranks that are left."""
        if self.peft_type == "ADALORA":
            return dict(_adalora_state(model))
        return dict(subspace_state(model)) if self._moves_subspaces else {}

    def restore_training_state(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        if self.peft_type == "ADALORA":
            _restore_adalora(model, tensors)
        elif self._moves_subspaces:
            restore_subspaces(model, tensors)


def _tuner(model: nn.Module) -> Any:
    return model.base_model


def _adalora_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    import torch

    allocator = _tuner(model).rankallocator
    for kind in _ADALORA_STATE:
        yield from ((f"{kind}/{name}", tensor) for name, tensor in getattr(allocator, kind).items())
    for name, kept in (model.peft_config[_ADAPTER].rank_pattern or {}).items():
        yield f"rank_pattern/{name}", torch.tensor(kept, dtype=torch.uint8)


def _restore_adalora(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    allocator = _tuner(model).rankallocator
    places = {name: part.device for name, part in _tuner(model).model.named_parameters()}
    pattern = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "rank_pattern":
            pattern[name] = tensor.bool().tolist()
        else:
            getattr(allocator, kind)[name] = tensor.to(places[name])
            allocator.ipt.setdefault(name, tensor.to(places[name]))  # known; its value is made anew at each step
    model.peft_config[_ADAPTER].rank_pattern = pattern or None
