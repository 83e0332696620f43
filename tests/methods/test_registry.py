from __future__ import annotations

from typing import Any

import pytest

from tasks.foundation.errors import ConfigError
from tasks.methods import all_methods, parse_method

KINDS = [
    "adalora",
    "adapter",
    "adapter_drop",
    "adapter_fusion",
    "bitfit",
    "distillation",
    "freeze",
    "full",
    "ia3",
    "llama_adapter",
    "lora",
    "mam_adapter",
    "none",
    "p_tuning",
    "p_tuning_v2",
    "peft_config",
    "prefix_tuning",
    "progressive_shrinking",
    "prompt_tuning",
    "pruning",
    "qlora",
]


def test_each_file_is_one_method() -> None:
    assert [method.model_fields["kind"].default for method in all_methods()] == KINDS
    assert [method.__module__ for method in all_methods()] == [f"tasks.methods.{kind}" for kind in KINDS]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a method without `kind`"),
        ({"kind": "lorra"}, "Did you mean lora?"),
        ({"kind": ["lora"]}, "unknown method"),
        ({"kind": "lora", "lora_alfa": 3}, "Did you mean lora_alpha?"),
        ({"kind": "lora", "r": 0}, r"methods\[lora\]\.r: .*greater than 0 \(got 0\)"),
        ({"kind": "lora", "learning_rate": float("nan")}, "learning_rate"),
        ({"kind": "lora", "init_lora_weights": "pizza"}, "init_lora_weights"),
        ({"kind": "freeze", "num_layers": 0}, "nothing would train"),
        ({"kind": "prompt_tuning", "prompt_tuning_init": "TEXT"}, "belong together"),
        ({"kind": "prompt_tuning", "prompt_tuning_init_text": "x"}, "belong together"),
        (
            {"kind": "ia3", "target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]},
            "down_proj is not among target_modules",
        ),
        ({"kind": "peft_config"}, "Name an adapter_config.json"),
        ({"kind": "peft_config", "config": {"peft_type": "LORRA"}}, "Did you mean LORA?"),
        ({"kind": "peft_config", "config": {"peft_type": "LORA", "lora_alfa": 3}}, "Did you mean lora_alpha?"),
        ({"kind": "peft_config", "config": {"peft_type": "XLORA"}}, "trained already"),
        ({"kind": "peft_config", "config": {"peft_type": "VERA"}, "text": "x"}, "VERA does not start from words"),
        ({"kind": "peft_config", "config": {"peft_type": "TRAINABLE_TOKENS"}}, "Name tokens"),
        ({"kind": "llama_adapter", "adapter_len": 0}, "greater than 0"),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        parse_method(settings)
    assert caught.value.exit_code == 10
    assert "\n" not in str(caught.value)


def test_a_name_replaces_the_kind_as_label() -> None:
    assert parse_method({"kind": "lora"}).label == "lora"
    assert parse_method({"kind": "lora", "name": "lora r4", "r": 4}).label == "lora r4"
