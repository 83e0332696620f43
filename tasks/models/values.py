"""A base model that was found, checked and digested."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.foundation.values import Value


class BaseModelFacts(Value):
    """What `config.json` says, read without loading a weight. Sizes are counts of elements."""

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    parameters: int
    """Elements of all weights, counted from the safetensors headers (tied ones once)."""
    dtype: str
    """The float dtype in which the weights are stored, for example `float32`."""
    bias_parameters: int | None = None
    """Those of them that are biases; None where nobody has counted."""


class Quantization(Value):
    """How the base's linear layers are held in memory. The libraries' own defaults are never used."""

    bits: Literal[4, 8]
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True

    @property
    def name(self) -> str:
        """`nf4`, `fp4` or `int8`."""
        return "int8" if self.bits == 8 else self.quant_type


class BaseModel(Value):
    """A local folder with config, safetensors weights and tokenizer."""

    name: str
    """As the user wrote it."""
    path: Path
    revision: str = ""
    digest: str
    """sha256 over the names and bytes of config, weights and tokenizer files."""
    tokenizer_digest: str
    """sha256 over the tokenizer's files (with the chat template) alone."""
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    quantization: Quantization | None = None
    """Of its linear layers, in memory; the files stay as they are."""
    new_tokens: int = 0
    """How many tokens `model.extend_vocabulary` added: such a base lies in `path` alone, wherever its origin lies."""
    facts: BaseModelFacts
