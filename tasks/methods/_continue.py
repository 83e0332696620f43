"""Start from what an earlier run left: find its tensors' places, and refuse what would not be the same function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods._base import Method
from tasks.methods._source import Source
from tasks.methods._values import INIT_FROM

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
VIRTUAL_TOKENS = "prompt_embeddings"
"""PEFT's name for finished virtual tokens: of the input, or of every layer."""

_AT_THE_INPUT = {"PROMPT_TUNING", "P_TUNING"}
"""Once they are finished, virtual tokens of the one are those of the other."""
_MEANING = ("init_r", "lora_alpha", "alpha", "alpha_pattern", "use_rslora", "use_dora", "feedforward_modules")
"""Settings under which the same tensors are another function."""


class SavedAdapter(NamedTuple):
    """What an adapter folder holds."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def read_adapter(source: Source) -> SavedAdapter:
    """Configuration and tensors of an adapter in PEFT's layout, on the CPU.

    Raises:
        IntegrityError: a file is missing.
    """
    from safetensors.torch import load_file

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (source.path / name).is_file():
            raise IntegrityError(f"{name} is missing", where=str(source.path), fix="Name a folder that PEFT can load")
    return SavedAdapter(read_config(source), load_file(source.path / ADAPTER_WEIGHTS))


def read_config(source: Source) -> dict[str, Any]:
    """The adapter's configuration."""
    config: dict[str, Any] = json.loads((source.path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return config


def refuse_other_type(method: Method, own: str, saved: Mapping[str, Any]) -> None:
    """Raises ConfigError where the saved adapter is of another PEFT type than `own`, or of none."""
    if "peft_type" not in saved:
        made_by = saved.get("kind", "another tool")
        raise ConfigError(
            f"{method.init_from or 'it'} is an adapter of {made_by}, which PEFT does not know",
            where=_where(method),
            fix=f"Take {{kind: {made_by}}}, or another source",
        )
    kinds = {own, str(saved["peft_type"])}
    if len(kinds) > 1 and not kinds <= _AT_THE_INPUT:
        raise ConfigError(
            f"{method.init_from or 'it'} is an adapter of PEFT's type {saved['peft_type']}, not {own}",
            where=_where(method),
            fix="Take the kind of method that made it",
        )


def refuse_other_meaning(method: Method, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raises ConfigError where the saved tensors would be another function under this method's settings.

    Args:
        own: this method's configuration in PEFT's words, as JSON values.
        saved: the earlier adapter's.
    """
    refuse_other_type(method, str(own["peft_type"]), saved)
    for name in _MEANING:
        if name in own and (there := saved.get(name)) is not None and there != own[name]:
            raise ConfigError(
                f"the earlier one has {name} {there}, this method {own[name]}: its tensors would mean another thing",
                where=_where(method),
                fix=f"Set {name}: {there}",
            )


def places(method: Method, model: nn.Module) -> dict[str, nn.Parameter]:
    """PEFT's saved name -> the parameter of the attached model that it came from.

    Raises:
        ConfigError: the virtual tokens are made by an encoder, which no adapter file holds.
    """
    from peft import get_peft_model_state_dict

    trainable = {name: part for name, part in model.named_parameters() if part.requires_grad}
    if not model.peft_config["default"].is_prompt_learning:
        found: dict[str, nn.Parameter] = get_peft_model_state_dict(model, trainable, save_embedding_layers=False)
        return found
    if len(trainable) > 1:
        raise ConfigError(
            f"{method.kind} trains virtual tokens through an encoder, and a saved adapter holds the finished ones only",
            where=_where(method),
            fix="Go on without the encoder: prompt_tuning after p_tuning, p_tuning_v2 (or prefix_projection: false) "
            "after prefix_tuning",
        )
    return {VIRTUAL_TOKENS: next(iter(trainable.values()))}


def copy_into(method: Method, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors to parameters of the same names and shapes.

    Raises:
        ConfigError: a name or a shape differs.
    """
    if difference := sorted(parameters.keys() ^ tensors.keys()):
        side = "earlier result" if difference[0] in tensors else "method with these settings"
        raise ConfigError(
            f"only the {side} has {difference[0]}",
            where=_where(method),
            fix="Give this method the targets and settings of the earlier one",
        )
    for name, parameter in sorted(parameters.items()):
        if parameter.shape != tensors[name].shape:
            raise ConfigError(
                f"{name} is {list(tensors[name].shape)} in the earlier result and {list(parameter.shape)} here",
                where=_where(method),
                fix=_size_setting(name, tensors[name]),
            )
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])


def _size_setting(name: str, tensor: Tensor) -> str:
    if name == VIRTUAL_TOKENS:
        return f"Set num_virtual_tokens: {len(tensor)}"
    if ".lora_" in name:
        rank = tensor.shape[0 if ".lora_A" in name else -1]
        return f"Set r: {rank} and the lora_alpha of its {ADAPTER_CONFIG}"
    return "Give this method the sizes of the earlier one"


def _where(method: Method) -> str:
    return f"methods[{method.label}].{INIT_FROM}"
