"""Going on from an earlier adapter of the same PEFT type, as the same function or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tasks.foundation.errors import ConfigError
from tasks.methods._budget import with_pruned_ranks
from tasks.methods._continue import SavedAdapter, copy_into, places
from tasks.methods._peft import PeftMethod, neutral_config
from tasks.methods._values import INIT_FROM

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADAPTER = "default"
_MAY_DIFFER: Final[Mapping[str, str]] = {
    "whose it is": "auto_mapping base_model_name_or_path inference_mode peft_type peft_version revision task_type",
    "told by the tensors' names": "exclude_modules layers_pattern layers_to_transform modules_to_save rank_pattern "
    "target_modules",
    "where it began": "corda_config eva_config init_ia3_weights init_lora_weights init_scale init_weights loftq_config "
    "prompt_tuning_init prompt_tuning_init_text tokenizer_kwargs tokenizer_name_or_path",
    "how it trains": "beta1 beta2 deltaT orth_reg_weight target_r tfinal tinit total_step asa_importance_beta "
    "asa_schedule_exponent asa_target_subspaces asa_uncertainty_beta final_warmup init_warmup mask_interval use_asa "
    "auxiliary_loss_weight opt_loss_decay_factor opt_weighted_loss_type",
    "how it is computed": "megatron_config megatron_core runtime_config runtime_offload_base_weight progressbar",
    "what its file holds": "save_indices save_projection save_precomputed_indices",
}
_HARMLESS: Final = frozenset(name for names in _MAY_DIFFER.values() for name in names.split())
"""Fields that may differ where names and shapes of the tensors do not; any other, also one of a newer PEFT, may not."""


def start(method: PeftMethod, model: nn.Module, saved: SavedAdapter) -> None:
    """Put the earlier adapter's tensors into the attached model, and see that it would be saved as they are.

    Raises:
        ConfigError: they are another function under these settings, or this type cannot go on, with the way out.
    """
    kind, where = str(saved.config.get("peft_type")), f"methods[{method.label}].{INIT_FROM}"
    refuse_other_function(method, neutral_config(model), saved.config)
    if kind == "CPT":
        _start_context(model, saved.tensors["prompt_embeddings"])
    elif kind == "ADALORA":
        parameters = places(method, model)
        copy_into(method, parameters, with_pruned_ranks(parameters, saved))
    else:
        _load(method, model, saved.tensors, where)


def becomes(kind: str, saved: Mapping[str, Any]) -> str:
    """The method that goes on from what a type was saved as, where that is another type; else empty."""
    if kind == "POLY":
        return f"{{kind: lora, r: {saved.get('r')}, lora_alpha: {saved.get('lora_alpha')}}}"
    if kind == "MULTITASK_PROMPT_TUNING":
        return f"{{kind: prompt_tuning, num_virtual_tokens: {saved.get('num_virtual_tokens')}}}"
    return ""


def refuse_other_function(method: PeftMethod, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raises ConfigError where the saved tensors would be another function under this method's configuration.

    Args:
        own: as PEFT has it, as JSON values.
        saved: the earlier adapter's.
    """
    for name in sorted((own.keys() & saved.keys()) - _HARMLESS):
        if not name.endswith("dropout") and (own[name] or None) != (saved[name] or None):
            raise ConfigError(
                f"the earlier one has {name} {saved[name]}, this method {own[name]}: its tensors would mean another "
                "thing",
                where=f"methods[{method.label}].{INIT_FROM}",
                fix=f"Set {name}: {saved[name]}",
            )


def _start_context(model: nn.Module, saved: Tensor) -> None:
    """CPT trains the difference to its context's embeddings, and what is saved is their sum."""
    encoder = model.prompt_encoder[_ADAPTER]
    encoder.delta_embedding.weight.data.copy_(saved.to(encoder.embedding.weight) - encoder.embedding.weight)


def _load(method: PeftMethod, model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """By PEFT's own loading, with frozen parts (projections, indices); then all must stand there as it was."""
    import torch
    from peft import set_peft_model_state_dict

    fix = "Give this method the targets and settings of the earlier one"
    try:
        set_peft_model_state_dict(model, dict(tensors))
    except (RuntimeError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"the earlier adapter does not fit: {said}", where=where, fix=fix) from error
    trained = {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}
    now = method.adapter_tensors(model, trained)
    if difference := sorted(now.keys() ^ tensors.keys()):
        side = "earlier result" if difference[0] in tensors else "method with these settings"
        raise ConfigError(f"only the {side} has {difference[0]}", where=where, fix=fix)
    for name, tensor in sorted(tensors.items()):
        if now[name].shape != tensor.shape or not torch.equal(now[name].cpu(), tensor.to(now[name].dtype)):
            raise ConfigError(f"{name} of the earlier result does not fit this method", where=where, fix=fix)
