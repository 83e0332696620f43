from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.foundation.errors import ConfigError
from tasks.methods import parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import attached


def scaled(model: nn.Module) -> dict[str, bool]:
    """Layer name -> whether its input is scaled, in the first block."""
    return {
        name.rpartition(".")[2]: module.is_feedforward
        for name, module in model.named_modules()
        if hasattr(module, "ia3_l") and ".layers.0." in name
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"k_proj": False, "v_proj": False, "down_proj": True}),
        ({"target_modules": ["v_proj"]}, {"v_proj": False}),
        (
            {"target_modules": ["v_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
            {"v_proj": False, "up_proj": True},
        ),
        ({"target_modules": r".*(k|down)_proj"}, {"k_proj": False, "down_proj": True}),
        ({"target_modules": ["k_proj", "mlp.down_proj"]}, {"k_proj": False, "down_proj": True}),
    ],
)
def test_targets_and_feed_forward_are_settings_with_the_papers_layers_as_default(
    base: BaseModel, settings: dict[str, Any], expected: dict[str, bool]
) -> None:
    _, model = attached({"kind": "ia3", **settings}, base)
    assert scaled(model) == expected


def test_the_feed_forward_of_gpt2_is_found_under_its_longer_name() -> None:
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    model = parse_method({"kind": "ia3"}).attach(GPT2LMHeadModel(config))
    inner = {name: module.is_feedforward for name, module in model.named_modules() if hasattr(module, "ia3_l")}
    block = "base_model.model.transformer.h.0"
    assert inner == {f"{block}.attn.c_attn": False, f"{block}.mlp.c_proj": True}


def test_feed_forward_layers_outside_an_expression_are_refused(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match="up_proj is not among the targets"):
        attached({"kind": "ia3", "target_modules": ".*k_proj", "feedforward_modules": ["up_proj"]}, base)


def test_an_architecture_that_peft_does_not_know_needs_explicit_targets(base: BaseModel) -> None:
    model = load_base(base)
    model.config.model_type = "unheard-of"
    with pytest.raises(ConfigError, match="Set target_modules and feedforward_modules"):
        parse_method({"kind": "ia3"}).attach(model)


def test_scales_do_not_decay_unless_asked_to() -> None:
    assert parse_method({"kind": "ia3"}).weight_decay == 0.0
    assert parse_method({"kind": "ia3", "weight_decay": 0.1}).weight_decay == 0.1
