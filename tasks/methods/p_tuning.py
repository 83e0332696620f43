"""P-tuning: virtual tokens at the input, made by a small encoder while training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.methods._prompts import PromptMethod
from tasks.methods._rates import rate_between
from tasks.methods._values import MethodInfo
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class PTuning(PromptMethod):
    """Settings of `p_tuning`, under PEFT's own names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="P virtual tokens through an MLP or LSTM encoder",
        paper="2103.10385",
        holds="adapter",
        mergeable=False,
        memory="b N + 16 n, b bytes per base weight, n = P d + the encoder (MLP: 2 d h + h^2, LSTM: 10 d h + 36 h^2)",
        quantized_base=True,
        traps=("the encoder is not saved: prompt_tuning goes on from its virtual tokens, p_tuning does not",),
    )

    kind: Literal["p_tuning"] = "p_tuning"
    weight_decay: float | None = Field(default=0.0, ge=0)
    """Wins over `training.weight_decay`."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The encoder."""
    encoder_hidden_size: int | None = Field(default=None, gt=0)
    """Width of the encoder; the model's hidden size when absent."""

    encoder_num_layers: int = Field(default=2, gt=0)
    """Layers of the LSTM; the MLP always has three."""
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout between the layers of the LSTM while training; the MLP has none."""

    @model_validator(mode="after")
    def _of_the_lstm(self) -> Self:
        if self.encoder_reparameterization_type == "MLP" and (self.encoder_num_layers, self.encoder_dropout) != (
            2,
            0.0,
        ):
            raise ValueError(
                "encoder_num_layers and encoder_dropout belong to the LSTM. Set encoder_reparameterization_type: LSTM"
            )
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=3e-2, large=1e-3)

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            encoder_reparameterization_type=self.encoder_reparameterization_type,
            encoder_hidden_size=self.encoder_hidden_size,
            encoder_num_layers=self.encoder_num_layers,
            encoder_dropout=self.encoder_dropout,
        )
