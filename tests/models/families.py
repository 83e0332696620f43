"""A tiny random model on disk of every family: 2 layers, hidden 32, vocabulary 128, 64 positions, one tokenizer.

Weights are wide (standard deviation 0.2), so that a difference anywhere is seen in the logits. No bias is 0 and no
scale of a norm is 1, so that one which is lost is seen as well. transformers reads a qwen2's tokenizer as byte pairs
whatever it is: it encodes no word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tasks.models import BaseModel, ModelSettings, resolve_base
from tests.models.tiny import VOCABULARY, write_tokenizer

LAYERS = 2
HIDDEN = 32
POSITIONS = 64
_SPREAD = 0.2

_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": True,
}
_HEADS: Mapping[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": _SPREAD,
}
_GROUPED: Mapping[str, Any] = {**_HEADS, "intermediate_size": 64, "num_key_value_heads": 2}
_GEMMA: Mapping[str, Any] = {**_GROUPED, "head_dim": 8, "pad_token_id": 1}
_WINDOWED: Mapping[str, Any] = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "mistral": {**_GROUPED, "sliding_window": None},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, **_WINDOWED, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_GEMMA, **_WINDOWED, "query_pre_attn_scalar": 8},
    "gpt2": {
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": POSITIONS,
        "initializer_range": _SPREAD,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
    "gpt_neox": {**_HEADS, "intermediate_size": 64, "tie_word_embeddings": False},
    "opt": {
        **_HEADS,
        "ffn_dim": 64,
        "word_embed_proj_dim": HIDDEN,
        "init_std": _SPREAD,
        "dropout": 0.0,
        "pad_token_id": 1,
    },
    "bloom": {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4, "initializer_range": _SPREAD},
    "glm": {**_GROUPED, "head_dim": 8, "tie_word_embeddings": False, "pad_token_id": 1},
    "glm4": {**_GROUPED, "head_dim": 8, "tie_word_embeddings": False, "pad_token_id": 1},
    "phi": {**_HEADS, "intermediate_size": 64, "tie_word_embeddings": False},
    "phi3": {**_GROUPED, "tie_word_embeddings": False, "original_max_position_embeddings": POSITIONS},
}
"""`model_type` -> what its configuration needs to be tiny; without dropout."""

_EAGER = ("bloom", "gemma2")
"""Families that transformers runs with no other attention; `model.attn_implementation` says so to users."""


def tiny_model(family: str, **more: object) -> PreTrainedModel:
    """In memory and in eval mode, without writing anything; `more` are further keys of its configuration."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **{**_COMMON, **FAMILIES[family], **more})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def tiny_tokens(rows: int = 2, tokens: int = 7) -> torch.Tensor:
    """[rows, tokens] of ids, the same every time."""
    return torch.randint(2, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(4))


def write_family(folder: Path, family: str, dtype: str = "float32") -> Path:
    """Write the family's model and its tokenizer; the same family gives the same bytes."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **{**_COMMON, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for vector in (part for part in model.parameters() if part.ndim == 1):
            vector.add_(torch.randn_like(vector), alpha=_SPREAD)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return write_tokenizer(folder, padding="</s>")


def family_base(folder: Path, family: str, dtype: str = "float32") -> BaseModel:
    """The family's model, written into `folder` and resolved."""
    attention = "eager" if family in _EAGER else "sdpa"
    written = write_family(folder, family, dtype)
    return resolve_base(ModelSettings(name_or_path=str(written), attn_implementation=attention))
