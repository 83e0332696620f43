"""Prompt tuning: virtual tokens in front of the input embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.methods._prompts import PromptMethod
from tasks.methods._rates import rate_between
from tasks.methods._values import MethodInfo
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

_HUGE_PARAMETERS = 3_000_000_000


class PromptTuning(PromptMethod):
    """Settings of `prompt_tuning`, under PEFT's own names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="P virtual tokens at the input",
        paper="2104.08691",
        holds="adapter",
        mergeable=False,
        memory="b N + 16 P d, b bytes per base weight",
        quantized_base=True,
        traps=("needs two to five times the steps", "virtual tokens count against the context"),
    )

    kind: Literal["prompt_tuning"] = "prompt_tuning"
    weight_decay: float | None = Field(default=0.0, ge=0)
    """Wins over `training.weight_decay`."""
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "SAMPLE_VOCAB"
    """Start of the virtual tokens: noise, embeddings of random tokens, or of `prompt_tuning_init_text`."""
    prompt_tuning_init_text: str | None = None
    """Text for the start, repeated or cut to `num_virtual_tokens`."""

    @model_validator(mode="after")
    def _text(self) -> PromptTuning:
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise ValueError("prompt_tuning_init: TEXT and prompt_tuning_init_text belong together")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        if facts.parameters >= _HUGE_PARAMETERS:
            return 1e-2
        return rate_between(facts, small=0.3, large=3e-2)

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import PromptTuningConfig

        text = self.prompt_tuning_init == "TEXT"
        return PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            prompt_tuning_init=self.prompt_tuning_init,
            prompt_tuning_init_text=self.prompt_tuning_init_text,
            tokenizer_name_or_path=str(model.name_or_path) if text else None,
            tokenizer_kwargs={"local_files_only": True} if text else None,
        )

    def saved_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The start no longer matters, and a start from text would ask for a tokenizer's path of this machine."""
        return config | {
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
            "tokenizer_kwargs": None,
        }
