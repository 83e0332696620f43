"""A tiny random Llama on disk: 2 layers, hidden 64, vocabulary 128, with a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from tasks.models import BaseModel, ModelSettings, resolve_base

VOCABULARY = 128


def write_tiny_llama(
    folder: Path, *, dtype: str = "float32", tied: bool = True, shard_size: str = "1GB", biases: bool = False
) -> Path:
    """Write the model and its tokenizer; the same arguments give the same bytes."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=biases,
        mlp_bias=biases,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_size)
    return write_tokenizer(folder)


def write_tiny_mixtral(folder: Path) -> Path:
    """A mixture of four experts that adds its router's penalty to the loss."""
    torch.manual_seed(7)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return write_tokenizer(folder)


def write_tokenizer(folder: Path, padding: str | None = None) -> Path:
    """The word-level tokenizer `<s> </s> <unk> w3 w4 …`; returns the folder."""
    special = ("<s>", "</s>", "<unk>")
    words = {word: at for at, word in enumerate((*special, *(f"w{number}" for number in range(3, VOCABULARY))))}
    start, end, unknown = special
    tokenizer = Tokenizer(WordLevel(words, unk_token=unknown))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, unk_token=unknown, pad_token=padding
    ).save_pretrained(folder)
    return folder


def tiny_base(folder: Path) -> BaseModel:
    """The model in `folder`, resolved."""
    return resolve_base(ModelSettings(name_or_path=str(folder)))


def token_batch(rows: int = 2, tokens: int = 12) -> torch.Tensor:
    """[rows, tokens] of token ids, the same every time."""
    return torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(3))
