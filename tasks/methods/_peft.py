"""What all methods that PEFT knows share: attach, PEFT's own folder layout, load, merge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods._base import Method
from tasks.methods._continue import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    SavedAdapter,
    copy_into,
    places,
    read_adapter,
    read_config,
    refuse_other_meaning,
    refuse_other_type,
)
from tasks.methods._source import Source
from tasks.methods._values import INIT_FROM, NOTHING, Supplies

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn


class PeftMethod(Method):
    """A method that PEFT implements. A subclass says how PEFT is configured for a given base."""

    def peft_config(self, model: nn.Module) -> PeftConfig:
        """PEFT's configuration for this base; sizes are derived from the base, never from the settings.

        Raises:
            ConfigError: the settings do not fit the base.
        """
        raise NotImplementedError

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        config, source = self.peft_config(skeleton), supplies.sources.get(INIT_FROM)
        if source is not None and source.holds == "adapter":
            refuse_other_type(self, str(jsonable(config.peft_type)), read_config(source))

    def saved_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Last changes to the saved configuration (None: nothing of this machine may stay in it)."""
        return config

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        """Freeze the base, add the adapter in float32 whatever the base's dtype is."""
        return wrapped(model, self.peft_config(model), self.label)

    def start_from(self, model: nn.Module, source: Source) -> None:
        """Take the tensors of an earlier adapter, which must be the same function under this method's settings.

        Finished virtual tokens are taken by a method that trains them bare, whichever encoder made them.

        Raises:
            ConfigError: another kind of adapter, other sizes or settings, or an encoder that was not saved.
            IntegrityError: the folder is incomplete.
        """
        saved = read_adapter(source)
        refuse_other_meaning(self, neutral_config(model), saved.config)
        copy_into(self, places(self, model), self.starting_tensors(model, saved))

    def starting_tensors(self, model: nn.Module, saved: SavedAdapter) -> Mapping[str, Tensor]:
        """The earlier adapter's tensors, in the shapes that train here."""
        return saved.tensors

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

        if empty := [name for name, tensor in sorted(tensors.items()) if not tensor.numel()]:
            raise IntegrityError(f"{empty[0]} is empty", where=str(folder), fix="Train the cell again")
        state = sorted(self.adapter_tensors(model, tensors).items())
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
        expected = set(get_peft_model_state_dict(loaded, loaded.state_dict(), save_embedding_layers=False))
        if difference := sorted(stored ^ expected):
            raise IntegrityError(f"the adapter does not fit the base: {difference[0]}", where=str(folder))
        return loaded.requires_grad_(False).eval()

    def merge_skeleton(self, base: Path) -> nn.Module:
        """The base as the adapter is put on it for a merge: its shapes do, the weights come layer by layer."""
        from tasks.methods._peft_merge import weightless

        return weightless(base)

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        """Merge shard by shard; see `_peft_merge`."""
        from tasks.methods._peft_merge import merge_shards

        merge_shards(self, base, adapter, output, max_shard_bytes)


def wrapped(model: nn.Module, config: PeftConfig, label: str) -> nn.Module:
    """The frozen base with PEFT's adapter on it, in float32.

    Raises:
        ConfigError: nothing would train.
    """
    import torch
    from peft import get_peft_model

    attached: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=True)
    for parameter in attached.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    refuse_nothing_trainable(attached, label)
    return attached


def neutral_config(model: nn.Module) -> dict[str, Any]:
    """The active adapter's configuration for inference, as sorted JSON values without a path of this machine."""
    config = model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=None, revision=None, inference_mode=True)
    return {name: jsonable(value) for name, value in sorted(config.items())}


def jsonable(value: Any) -> Any:
    """A value of PEFT's configurations as JSON has it; sets sorted."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {str(name): jsonable(part) for name, part in value.items()}
    return getattr(value, "value", value)


def refuse_nothing_trainable(model: nn.Module, label: str) -> None:
    """Raise ConfigError where no parameter has requires_grad (under ZeRO-3 it knows its size as `ds_numel`)."""
    sizes = (getattr(part, "ds_numel", part.numel()) for part in model.parameters() if part.requires_grad)
    if not any(sizes):
        raise ConfigError(
            "nothing would train", where=f"methods[{label}]", fix="Choose other modules or another method"
        )
