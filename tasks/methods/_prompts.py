"""What the methods with virtual tokens share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.foundation.errors import ConfigError
from tasks.methods._peft import PeftMethod
from tasks.methods._values import Conditions
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

_ENCODER = "prompt_encoder.default"
_TABLE = "embedding.weight"


class PromptMethod(PeftMethod):
    """Virtual tokens in front of the input or of every layer; the base stays as it is and nothing can be merged."""

    num_virtual_tokens: int = Field(default=20, gt=0)
    """Virtual tokens; they count against the model's context."""

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        refuse_virtual_tokens(self.num_virtual_tokens, facts, conditions, f"methods[{self.label}]")

    def adapter_tensors(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return finished_prompt(model, tensors)


def finished_prompt(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The finished virtual tokens, [tokens, width]: the rows of the table, through the encoder where one trained.

    Computed on the CPU in an encoder of its own, since that of the model may hold but a part of its weights.
    """
    import torch

    start = f"{_ENCODER}."
    own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    if own.keys() == {_TABLE}:
        return {"prompt_embeddings": own[_TABLE]}
    encoder = type(model.get_submodule(_ENCODER))(model.peft_config["default"])
    encoder.load_state_dict(own)
    encoder.eval()  # what dropout it has belongs to training
    with torch.no_grad():
        return {"prompt_embeddings": encoder(torch.arange(own[_TABLE].shape[0])[None])[0]}


def refuse_virtual_tokens(count: int, facts: BaseModelFacts, conditions: Conditions, where: str) -> None:
    """Raise ConfigError where virtual tokens do not fit into the context, or rows are packed."""
    room = facts.max_position_embeddings - conditions.max_seq_length
    if count > room:
        raise ConfigError(
            f"num_virtual_tokens ({count}) + max_seq_length ({conditions.max_seq_length}) exceed "
            f"the model's context of {facts.max_position_embeddings} tokens",
            where=where,
            fix=f"Lower num_virtual_tokens to at most {room}" if room > 0 else "Lower data.max_seq_length",
        )
    if conditions.packing:
        raise ConfigError(
            "virtual tokens cannot stand before each of several packed rows",
            where=where,
            fix="Set data.packing: false, or take this method out",
        )


def refuse_checkpointing(name: str, conditions: Conditions, where: str) -> None:
    """Raise ConfigError where a prefix, which is a cache, would have to live without one."""
    if conditions.gradient_checkpointing:
        raise ConfigError(
            f"{name} cannot train with gradient checkpointing: it needs the key-value cache",
            where=where,
            fix="Set training.gradient_checkpointing: false",
        )
