"""What the methods with virtual tokens share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Conditions
from tasks.methods._peft import PeftMethod
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
        where = f"methods[{self.label}]"
        room = facts.max_position_embeddings - conditions.max_seq_length
        if self.num_virtual_tokens > room:
            raise ConfigError(
                f"num_virtual_tokens ({self.num_virtual_tokens}) + max_seq_length ({conditions.max_seq_length}) exceed "
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

    def adapter_tensors(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
        with torch.no_grad():
            return {"prompt_embeddings": encoder(torch.arange(own[_TABLE].shape[0])[None])[0]}
