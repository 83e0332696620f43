"""What the methods with virtual tokens share."""

from __future__ import annotations

from pydantic import Field

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Conditions
from tasks.methods._peft import PeftMethod
from tasks.models.values import BaseModelFacts


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
