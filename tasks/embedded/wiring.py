"""The start weights of the embedded base: a tiny Llama in which copying already works a little.

A model of this size does not find induction (look for an earlier occurrence of this token, copy what followed it)
within a minute: trained from noise it learns one fixed distance instead, and loses that as soon as it reads text. So
the two layers that induction needs are wired by hand, and training only has to refine them:

- layer 0 looks back: each head attends one or two tokens back and carries that token on, in directions of its own;
- layer 1 matches: each head compares the current token with what layer 0 carried, and copies the token where both
  agree.

The rest starts small and random. Embeddings are large (1.0) with a small final norm instead of small with a large one,
so that Adam's steps of equal size, which would scramble small embeddings, leave them recognisable.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.embedded.budget import PretrainBudget
from tasks.embedded.tokenizer import BOS_ID, EOS_ID, PAD_ID

_ROPE_THETA = 10_000.0
_OFFSETS = (1, 1, 2, 2)
"""Tokens that the heads of layer 0 look back; two, because a value stands two behind its key (`food[ Thai`)."""
_CONSTANT = 3.0
"""Dimension 0 of every embedding: what a head that looks only at positions multiplies."""
_FAST_PAIRS = 6
"""Rotary pairs that turn fast enough to tell neighbours apart; the others carry content over a distance."""
_SHARPNESS = 5.0
_MATCH = 2.0
_COPY = 3.0
_FINAL_NORM = 0.1
_SMALL = 0.03


def new_model(vocab_size: int, budget: PretrainBudget) -> LlamaForCausalLM:
    """The model before training; random parts follow torch's seed."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=budget.hidden_size,
        intermediate_size=budget.intermediate_size,
        num_hidden_layers=budget.layers,
        num_attention_heads=budget.heads,
        max_position_embeddings=budget.context,
        tie_word_embeddings=True,
        initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        attn_implementation="eager",
        dtype="float32",
    )
    model = LlamaForCausalLM(config).train()
    with torch.no_grad():
        _scale(model)
        _look_back(model)
        _match(model)
    return model


def _scale(model: LlamaForCausalLM) -> None:
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_()
    embeddings[:, 0] = _CONSTANT
    model.model.norm.weight.fill_(_FINAL_NORM)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.normal_(std=_SMALL)
        layer.mlp.down_proj.weight.normal_(std=_SMALL)


def _look_back(model: LlamaForCausalLM) -> None:
    """Layer 0: q = a(1, 0), k = a(cos wo, sin wo) in the rotary pair of frequency w: the score peaks o tokens back."""
    config, attention = model.config, model.model.layers[0].self_attn
    size = config.hidden_size // config.num_attention_heads
    pairs = size // 2
    fast = min(_FAST_PAIRS, pairs // 2)
    frequency = _ROPE_THETA ** (-torch.arange(pairs) / pairs)
    normed = _CONSTANT * (config.hidden_size / (config.hidden_size - 1 + _CONSTANT**2)) ** 0.5
    strength = (_SHARPNESS * size**0.5) ** 0.5 / normed
    query, key = torch.zeros(2, config.num_attention_heads, size, config.hidden_size)
    for head in range(config.num_attention_heads):
        turn = _OFFSETS[head % len(_OFFSETS)] * frequency[:fast]
        query[head, :fast, 0] = strength
        key[head, :fast, 0] = strength * turn.cos()
        key[head, pairs : pairs + fast, 0] = strength * turn.sin()
    attention.q_proj.weight.copy_(query.flatten(0, 1))
    attention.k_proj.weight.copy_(key.flatten(0, 1))
    _carry(attention, 1.0)


def _match(model: LlamaForCausalLM) -> None:
    """Layer 1: queries read a token as layer 0's values did, keys read what its outputs wrote."""
    config, before, attention = model.config, model.model.layers[0].self_attn, model.model.layers[1].self_attn
    size = config.hidden_size // config.num_attention_heads
    pairs = size // 2
    slow = (torch.arange(config.hidden_size) % pairs >= min(_FAST_PAIRS, pairs // 2)).unsqueeze(1)
    attention.q_proj.weight.copy_(_MATCH * slow * before.v_proj.weight)
    attention.k_proj.weight.copy_(_MATCH * slow * before.o_proj.weight.T)
    _carry(attention, _COPY)
    attention.o_proj.weight.copy_(_COPY * attention.v_proj.weight.T)


def _carry(attention: torch.nn.Module, scale: float) -> None:
    """Values and outputs that keep what they read apart from everything else, and leave the constant out."""
    torch.nn.init.orthogonal_(attention.v_proj.weight)
    torch.nn.init.orthogonal_(attention.o_proj.weight, gain=scale)
    attention.v_proj.weight[:, 0] = 0
    attention.o_proj.weight[0] = 0
