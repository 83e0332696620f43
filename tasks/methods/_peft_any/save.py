"""What a trained adapter of any PEFT type is saved as, so that PEFT alone can load it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tasks.methods._peft import jsonable
from tasks.methods._peft_any.steps import SteppedPeft
from tasks.methods._prompts import finished_prompt

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADAPTER = "default"
_ENCODER = f"prompt_encoder.{_ADAPTER}"
_WRAPPER = "base_model.model."


class SavedPeft(SteppedPeft):
    """Saves in PEFT's own form.

    Two types learn several tasks at once and ask for a task with every input. Here all rows are one task, and for one
    task they are something simpler, to the last bit of what they compute: a MULTITASK_PROMPT_TUNING prompt is saved as
    PROMPT_TUNING, and POLY, whose router has settled on one mixture, as LORA.
    """

    def adapter_tensors(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What trained, with the adapter's own parts that did not (projections, indices, starts)."""
        if self.peft_type in _PROMPTS:
            return _PROMPTS[self.peft_type](model, tensors)
        whole = _with_second_names(model, tensors)
        if self.peft_type == "POLY":
            return _one_mixture(model, whole)
        if self.peft_type == "ADALORA":
            model.peft_config[_ADAPTER].rank_pattern = _ranks_left(whole)
        return super().adapter_tensors(model, dict(model.state_dict()) | whole)

    def saved_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Starts no longer matter, and one from text would ask for a tokenizer's path of this machine."""
        if self.peft_type == "POLY":
            return _as("LORA", config | {"lora_alpha": 1})
        if self.peft_type == "MULTITASK_PROMPT_TUNING":
            return _as("PROMPT_TUNING", config | {"prompt_tuning_init": "RANDOM"})
        if self.peft_type == "PROMPT_TUNING":
            config = config | {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None}
        unset = dict.fromkeys(("tokenizer_name_or_path", "tokenizer_kwargs"))
        return config | {name: None for name in unset if name in config}


def _with_second_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained tensors under all names that they have: some types share one tensor among all layers."""
    first = {id(part): name for name, part in model.named_parameters()}
    named = ((name, first[id(part)]) for name, part in model.named_parameters(remove_duplicate=False))
    return {name: tensors[own] for name, own in named if own in tensors}


def _ranks_left(tensors: Mapping[str, Tensor]) -> dict[str, list[bool]] | None:
    """Layer -> which ranks AdaLoRA left, from the values themselves: pruned ones are exactly zero."""
    ending = f".lora_E.{_ADAPTER}"
    found = {name: (tensor != 0).flatten().tolist() for name, tensor in tensors.items() if name.endswith(ending)}
    if all(all(kept) for kept in found.values()):
        return None
    return {name.removeprefix(_WRAPPER).removesuffix(f".{_ADAPTER}"): kept for name, kept in found.items()}


def _one_mixture(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """POLY for one task as LoRA of scale 1 / r: A and B are the router's weighted sums over the skills (2202.13914)."""
    import torch

    start = ".poly_lora_A."
    state: dict[str, Tensor] = {}
    for name in [name for name in tensors if start in name]:
        layer = name.partition(start)[0]
        a, b = tensors[name], tensors[f"{layer}.poly_lora_B.{_ADAPTER}"]  # [splits, skills, in / splits, r], …
        logits = tensors[f"{layer}.poly_router.{_ADAPTER}.module_logits"][0].view(a.shape[0], a.shape[1])
        weights = torch.sigmoid(logits)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-12)
        mixed_a = torch.einsum("qs,qsdr->qdr", weights, a).reshape(-1, a.shape[-1])
        mixed_b = torch.einsum("qs,qsrd->qrd", weights, b).transpose(0, 1).reshape(b.shape[2], -1)
        state |= {f"{layer}.lora_A.weight": mixed_a.T, f"{layer}.lora_B.weight": mixed_b.T}
    return state


def _encoder(model: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    """The prompt's encoder on the CPU, with the tensors that trained."""
    start = f"{_ENCODER}."
    encoder = copy.deepcopy(model.get_submodule(_ENCODER)).cpu()
    encoder.load_state_dict(
        {name.removeprefix(start): part for name, part in tensors.items() if name.startswith(start)}, strict=False
    )
    return encoder.eval()


def _cartridge(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"prompt_embeddings": _encoder(model, tensors).weight}


def _with_delta(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPT: the context's embeddings and the learned difference, inside its ball."""
    import torch

    encoder = _encoder(model, tensors)
    with torch.no_grad():
        return {"prompt_embeddings": encoder(torch.arange(encoder.embedding.weight.shape[0]))}


def _of_one_task(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shared prompt times that of the one task (2303.02861)."""
    import torch

    encoder = _encoder(model, tensors)
    with torch.no_grad():
        task = encoder.prefix_task_cols[0] @ encoder.prefix_task_rows[0]
        return {"prompt_embeddings": encoder.embedding.weight * task}


_PROMPTS: Mapping[str, Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "CARTRIDGE": _cartridge,
    "CPT": _with_delta,
    "MULTITASK_PROMPT_TUNING": _of_one_task,
    "PREFIX_TUNING": finished_prompt,
    "PROMPT_TUNING": finished_prompt,
    "P_TUNING": finished_prompt,
}


def _as(peft_type: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of another type, with the fields that both have."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    known = {field.name for field in fields(kind) if field.init} - {"peft_type"}
    made = kind(**{name: value for name, value in config.items() if name in known and value is not None})
    return {name: jsonable(value) for name, value in sorted(made.to_dict().items())}
