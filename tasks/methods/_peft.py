"""What all methods that PEFT knows share: attach, PEFT's own folder layout, load, merge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods._base import Method

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class PeftMethod(Method):
    """A method that PEFT implements. A subclass says how PEFT is configured for a given base."""

    def peft_config(self, model: nn.Module) -> PeftConfig:
        """PEFT's configuration for this base; sizes are derived from the base, never from the settings.

        Raises:
            ConfigError: the settings do not fit the base.
        """
        raise NotImplementedError

    def saved_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Last changes to the saved configuration (None: nothing of this machine may stay in it)."""
        return config

    def attach(self, model: nn.Module) -> nn.Module:
        """Freeze the base, add the adapter in float32 whatever the base's dtype is."""
        import torch
        from peft import get_peft_model

        attached: nn.Module = get_peft_model(model, self.peft_config(model), autocast_adapter_dtype=True)
        for parameter in attached.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
        refuse_nothing_trainable(attached, self.label)
        return attached

    def adapter_tensors(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the adapter's file holds, under PEFT's names, made from the tensors that trained."""
        from peft import get_peft_model_state_dict

        state: dict[str, Tensor] = get_peft_model_state_dict(model, dict(tensors), save_embedding_layers=False)
        return state

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`; the same weights give the same bytes.

        Raises:
            IntegrityError: a tensor is empty, as a part of a shared one can be.
        """
        from safetensors.torch import save_file

        state = sorted(self.adapter_tensors(model, tensors).items())
        if empty := [name for name, tensor in state if not tensor.numel()]:
            raise IntegrityError(f"{empty[0]} is empty", where=str(folder), fix="Train the cell again")
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state}
        save_file(whole, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = self.saved_config(neutral_config(model))
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """Put a saved adapter on a base, for inference.

        Raises:
            IntegrityError: the folder is incomplete, or its tensors are not those that the base needs.
        """
        from peft import PeftModel, get_peft_model_state_dict
        from safetensors import safe_open

        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                raise IntegrityError(f"{name} is missing", where=str(folder), fix="Train the cell again")
        loaded: nn.Module = PeftModel.from_pretrained(base, folder, is_trainable=False)
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
        expected = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
        if difference := sorted(stored ^ expected):
            raise IntegrityError(f"the adapter does not fit the base: {difference[0]}", where=str(folder))
        return loaded.requires_grad_(False).eval()

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        """Merge shard by shard; see `_peft_merge`."""
        from tasks.methods._peft_merge import merge_shards

        merge_shards(self, base, adapter, output, max_shard_bytes)


def neutral_config(model: nn.Module) -> dict[str, Any]:
    """The active adapter's configuration for inference, as sorted JSON values without a path of this machine."""
    config = model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=None, revision=None, inference_mode=True)
    return {name: _jsonable(value) for name, value in sorted(config.items())}


def _jsonable(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {str(name): _jsonable(part) for name, part in value.items()}
    return getattr(value, "value", value)


def refuse_nothing_trainable(model: nn.Module, label: str) -> None:
    """Raise ConfigError where no parameter has requires_grad (under ZeRO-3 it knows its size as `ds_numel`)."""
    sizes = (getattr(part, "ds_numel", part.numel()) for part in model.parameters() if part.requires_grad)
    if not any(sizes):
        raise ConfigError(
            "nothing would train", where=f"methods[{label}]", fix="Choose other modules or another method"
        )
