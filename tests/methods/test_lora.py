from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, parse_method, refuse_quantization
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import attached
from tests.models.tiny import tiny_base, write_tiny_llama

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)


def adapted(model: nn.Module) -> set[str]:
    """`<block>.<layer>` of the layers with an adapter."""
    found = (re.search(r"layers\.(\d+)\.\w+\.(\w+)\.lora_A", name) for name, _ in model.named_parameters())
    return {f"{match[1]}.{match[2]}" for match in found if match}


ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
FEED_FORWARD = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("targets", "layers", "expected"),
    [
        ("all-linear", None, {f"{block}.{name}" for block in (0, 1) for name in ATTENTION | FEED_FORWARD}),
        ("all-linear", [1], {f"1.{name}" for name in ATTENTION | FEED_FORWARD}),
        (["q_proj", "mlp.up_proj"], None, {"0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj"}),
        (["q_proj", "v_proj"], [0], {"0.q_proj", "0.v_proj"}),
        (r".*\.1\..*_proj", None, {f"1.{name}" for name in ATTENTION | FEED_FORWARD}),
    ],
)
def test_targets_are_all_linear_names_or_one_expression(
    base: BaseModel, targets: Any, layers: list[int] | None, expected: set[str]
) -> None:
    _, model = attached({"kind": "lora", "r": 4, "target_modules": targets, "layers_to_transform": layers}, base)
    assert adapted(model) == expected


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 2}, 0.5),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
    ],
)
def test_the_scale_is_alpha_over_r_or_over_its_root(base: BaseModel, settings: dict[str, Any], scale: float) -> None:
    _, model = attached({"kind": "lora", "target_modules": ["q_proj"], **settings}, base)
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    assert layer.scaling["default"] == scale


def test_dropout_and_dora_and_start_reach_the_layers(base: BaseModel) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    _, plain = attached({"kind": "lora", "lora_dropout": 0.25}, base)
    _, other = attached({"kind": "lora", "init_lora_weights": "orthogonal", "use_dora": True}, base)
    assert plain.get_submodule(name).lora_dropout["default"].p == 0.25
    assert not plain.get_submodule(name).lora_B["default"].weight.any()
    assert other.get_submodule(name).lora_B["default"].weight.any()
    assert other.get_submodule(name).lora_magnitude_vector["default"].weight.shape == (64,)


def test_a_target_that_matches_nothing_is_refused_with_the_names_that_exist(base: BaseModel) -> None:
    for targets in (["q_proj", "query"], ".*query"):
        with pytest.raises(ConfigError, match=r"query.*matches no linear layer.*down_proj.*q_proj"):
            attached({"kind": "lora", "target_modules": targets}, base)


def test_a_tied_output_layer_cannot_carry_an_adapter_and_an_untied_one_can(base: BaseModel, tmp_path: Path) -> None:
    settings = {"kind": "lora", "r": 4, "target_modules": ["lm_head"]}
    with pytest.raises(ConfigError, match=r"lm_head shares its weight"):
        attached(settings, base)
    _, model = attached(settings, tiny_base(write_tiny_llama(tmp_path / "untied", tied=False)))
    assert any("lm_head.lora_A" in name for name, _ in model.named_parameters())


def test_embeddings_are_no_target(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match="embed_tokens"):
        attached({"kind": "lora", "target_modules": ["embed_tokens"]}, base)


def test_a_rank_above_a_layers_smaller_side_is_refused(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"r: 65 .*hidden size"):
        parse_method({"kind": "lora", "r": 65}).check(base.facts, PLAIN)
    with pytest.raises(
        ConfigError, match=r"r: 48 is over the smaller side \(32\) of model\.layers\.0\.self_attn\.k_proj"
    ):
        attached({"kind": "lora", "r": 48}, base)
    with pytest.raises(ConfigError, match=r"r: 48 is over"):
        attached({"kind": "qlora", "r": 48}, base)


def test_a_block_that_does_not_exist_is_refused(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"no block 2\. Allowed: 0 to 1"):
        parse_method({"kind": "lora", "layers_to_transform": [0, 2]}).check(base.facts, PLAIN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers_to_transform": [1], "target_modules": ".*q_proj"}, "does not go with an expression"),
        ({"layers_to_transform": []}, "layers_to_transform"),
    ],
)
def test_blocks_that_peft_would_refuse_late_or_take_for_all_are_refused_at_once(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "lora", **settings})


def test_qlora_settings_reach_the_quantised_base(base: BaseModel) -> None:
    pytest.importorskip("bitsandbytes")
    method = parse_method({"kind": "qlora", "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False})
    layer = load_base(base, quantization=method.quantization()).get_submodule("model.layers.0.mlp.up_proj")
    assert (layer.weight.quant_type, layer.weight.compress_statistics) == ("fp4", False)


def test_qlora_without_bitsandbytes_is_refused(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes"):
        refuse_quantization(parse_method({"kind": "qlora"}), base.quantization)
