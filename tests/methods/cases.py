"""One table of cases for the contract that every method keeps: all discovered methods, and their variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.methods import Method, all_methods, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tasks.training.shards import gather
from tests.models.tiny import token_batch

Settings = Mapping[str, Any]

VARIANTS: tuple[Settings, ...] = (
    {"kind": "freeze", "num_layers": 0, "modules": ["mlp.down_proj"]},
    {"kind": "freeze", "num_layers": 0, "head": True},
    {"kind": "lora", "r": 4, "use_dora": True},
    {"kind": "lora", "r": 4, "use_rslora": True, "init_lora_weights": "gaussian"},
    {"kind": "lora", "r": 4, "init_lora_weights": "orthogonal", "target_modules": r".*self_attn\.[qv]_proj"},
    {"kind": "lora", "r": 4, "layers_to_transform": [1]},
    {"kind": "qlora", "r": 4, "use_dora": True},
    {"kind": "ia3", "target_modules": ["v_proj", "up_proj"], "feedforward_modules": []},
    {"kind": "prompt_tuning", "prompt_tuning_init": "RANDOM", "num_virtual_tokens": 5},
    {"kind": "prompt_tuning", "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "w5 w6 w7"},
    {"kind": "prefix_tuning", "prefix_projection": False},
    {"kind": "prefix_tuning", "encoder_hidden_size": 16},
    {"kind": "p_tuning", "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16},
)


def trainable_cases() -> list[Settings]:
    """The settings of every method that trains: its defaults, then its variants."""
    kinds = [str(method.model_fields["kind"].default) for method in all_methods() if method.info.holds != "nothing"]
    return [{"kind": kind} for kind in kinds] + list(VARIANTS)


def case_name(settings: Settings) -> str:
    return "-".join(str(value) for value in settings.values())


def attached(settings: Settings, base: BaseModel, seed: int = 0) -> tuple[Method, nn.Module]:
    """The method on a freshly loaded base, seeded before the adapter is made, ready to train."""
    method = parse_method(settings)
    model = load_base(base, quantization=method.quantization())
    torch.manual_seed(seed)
    return method, method.attach(model).train()


def train(model: nn.Module, steps: int = 3) -> None:
    """Plain AdamW steps on the same tokens every time."""
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-2)
    for _ in range(steps):
        loss(model).backward()
        optimizer.step()
        optimizer.zero_grad()


def save(method: Method, model: nn.Module, folder: Path) -> None:
    """Save what trained, as the end of training does."""
    method.save(model, folder, gather(model, frozen=method.info.holds == "model"))


def loss(model: nn.Module) -> torch.Tensor:
    ids = token_batch()
    value: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
    return value


def logits(model: nn.Module) -> torch.Tensor:
    """[rows, tokens, vocabulary] in eval mode, without those of virtual tokens."""
    ids = token_batch()
    with torch.no_grad():
        out: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return out[:, -ids.shape[1] :]
