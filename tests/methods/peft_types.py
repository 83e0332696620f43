"""One small configuration of every PEFT type that trains here, fit for the tiny Llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tasks.methods import Method, Moment, Window
from tests.models.tiny import token_batch

STEPS = 10

_PROMPT = {"num_virtual_tokens": 4}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "ADALORA": {"init_r": 6, "target_r": 3, "total_step": 20, "tinit": 2, "tfinal": 6},
    "ADAMSS": {"r": 16, "num_subspaces": 3},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 28},
    "BEFT": {},
    "BOFT": {},
    "C3A": {"block_size": 16},
    "CARTRIDGE": _PROMPT,
    "CPT": {"cpt_token_ids": [5, 6, 7, 8], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "DEFT": {"r": 4},
    "DELORA": {"r": 4},
    "FOURIERFT": {"n_frequency": 200},
    "FROD": {},
    "GLORA": {"r": 4},
    "GRALORA": {"r": 8},
    "HIRA": {"r": 8},
    "HRA": {"r": 4},
    "IA3": {},
    "LILY": {"r": 8},
    "LN_TUNING": {},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "LORA": {"r": 4},
    "MISS": {"r": 8},
    "MULTITASK_PROMPT_TUNING": _PROMPT | {"num_tasks": 3, "prompt_tuning_init": "RANDOM"},
    "OFT": {"oft_block_size": 16},
    "OSF": {},
    "PEANUT": {"r": 8},
    "POLY": {"r": 4, "n_tasks": 3, "n_skills": 2, "n_splits": 2},
    "PREFIX_TUNING": _PROMPT | {"token_dim": 3072, "num_layers": 28, "num_attention_heads": 24},
    "PROMPT_TUNING": _PROMPT | {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "w5 w6"},
    "PSOFT": {"r": 8},
    "PVERA": {"r": 16},
    "P_TUNING": _PROMPT | {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16},
    "RANDLORA": {"r": 8},
    "ROAD": {"group_size": 16},
    "SHADOW": {"shadow_dropout": 0.0},
    "SHIRA": {"r": 4, "random_seed": 1},
    "SUPERTUNING": {"sparsity": 0.9},
    "TINYLORA": {},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6, 7]},
    "UNILORA": {},
    "VBLORA": {"vector_length": 16, "num_vectors": 32},
    "VERA": {"r": 16},
    "WAVEFT": {"n_frequency": 100},
}
"""PEFT type -> the fields of its adapter_config.json that are not at their defaults."""

RATES: Mapping[str, float] = {
    "ADAPTION_PROMPT": 0.1,
    "BEFT": 0.1,
    "C3A": 0.3,
    "CARTRIDGE": 0.3,
    "TRAINABLE_TOKENS": 0.2,
} | dict.fromkeys(("CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"), 0.3)
"""Of the toy, where 2e-2 is not enough."""


def settings(kind: str) -> dict[str, Any]:
    return {"kind": "peft_config", "config": {"peft_type": kind, **CONFIGS[kind]}}


def taught(method: Method, model: nn.Module, rate: float, steps: int = STEPS) -> list[float]:
    """Cross-entropy of each step, taken as the training session takes them."""
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=rate, weight_decay=0)
    ids = token_batch()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    losses = []
    for step in range(1, steps + 1):
        moment = Moment(step, steps, 0)
        method.before_step(model, moment)
        own = method.training_loss(model, inputs, Window(None, 1))
        total = model(**inputs).loss if own is None else own.total
        losses.append(float(total if own is None else own.cross_entropy))
        total.backward()
        optimizer.step()
        method.after_optimizer_step(model, moment)
        optimizer.zero_grad()
    return losses


def greedy(model: nn.Module) -> list[list[int]]:
    ids = token_batch()[:, :6]
    made = model.eval().generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=1
    )
    return made[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
