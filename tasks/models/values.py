"""A base model that was found, checked and digested."""

from __future__ import annotations

from pathlib import Path

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
    facts: BaseModelFacts
