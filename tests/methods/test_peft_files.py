"""adapter_config.json from elsewhere: nothing in it is trusted, and what cannot work is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import attached
from tests.methods.peft_types import settings


def test_sizes_of_another_model_are_not_heeded(base: BaseModel) -> None:
    _, model = attached(settings("PREFIX_TUNING"), base)
    made = model.peft_config["default"]
    assert (made.token_dim, made.num_layers, made.num_attention_heads) == (32, 2, 2)
    _, model = attached(settings("ADAPTION_PROMPT"), base)
    assert model.peft_config["default"].adapter_layers == 2


def test_machine_and_model_of_the_making_are_no_part_of_what_is_run(tmp_path: Path) -> None:
    plain = {"peft_type": "LORA", "r": 4}
    foreign = plain | {
        "base_model_name_or_path": "/somewhere/else",
        "revision": "abc",
        "auto_mapping": {"base_model_class": "X", "parent_library": "os"},
        "peft_version": "0.99",
        "inference_mode": True,
        "megatron_core": "os",
        "runtime_config": {"ephemeral_gpu_offload": False},
        "field_of_a_later_version": None,
    }
    methods = [parse_method({"kind": "peft_config", "config": config}) for config in (plain, foreign)]
    assert methods[0] == methods[1]
    (tmp_path / "adapter_config.json").write_text(json.dumps(foreign))
    from_file = parse_method({"kind": "peft_config", "path": str(tmp_path)})
    assert from_file == methods[0]
    assert str(tmp_path) not in from_file.model_dump_json()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "x.pt"}, "has no field"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "x.pt"}, "unpickle"),
        ({"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "os"}, "import the module"),
        ({"peft_type": "LORA", "init_lora_weights": "eva"}, "kind: lora, init_lora_weights: eva"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}, "randomised SVD"),
        ({"peft_type": "LOHA", "target_modules": ".*q_proj", "layers_to_transform": [0]}, "passed over by PEFT"),
        ({"peft_type": "SHADOW", "shadow_model": "some/model"}, "to be fetched"),
        ({"peft_type": "LORA", "task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"peft_type": "ADALORA", "target_r": 12}, "no rank to give up"),
        ({"peft_type": "LORA", "arrow_config": {}}, "trained already"),
        ({"r": 4}, "no peft_type"),
        ({"peft_type": "BONE"}, "unknown peft_type 'BONE'"),
    ],
)
def test_a_file_that_cannot_be_used_says_so_in_one_line_with_its_name(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message) as caught:
        parse_method({"kind": "peft_config", "path": str(file)})
    assert caught.value.exit_code == 10
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "no JSON object"), ('{"r": NaN}', "NaN is no number"), ("{}" + " " * 2**20, "over")],
)
def test_a_broken_file_is_no_configuration(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "peft_config", "path": str(tmp_path)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LORA", "target_modules": ["q_proj", "query"]}, "'query' matches nothing.*q_proj"),
        ({"peft_type": "LORA", "target_modules": ".*[("}, "no regular expression"),
        ({"peft_type": "LORA", "target_modules": ["lm_head"]}, "tied"),
        ({"peft_type": "LORA", "modules_to_save": ["embed_tokens"]}, "tied"),
        ({"peft_type": "LORA", "r": -1}, "PEFT refuses it: `r` should be a positive integer"),
        ({"peft_type": "C3A", "block_size": 7}, "PEFT refuses it: The block size"),
    ],
)
def test_what_does_not_fit_the_model_is_a_wrong_setting(config: dict[str, Any], message: str, base: BaseModel) -> None:
    with pytest.raises(ConfigError, match=message):
        attached({"kind": "peft_config", "config": config}, base)


@pytest.mark.parametrize(
    ("config", "conditions", "message"),
    [
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [128000]}, {}, "beyond this base's 128 tokens"),
        ({"peft_type": "LORA", "layers_to_transform": [0, 2]}, {}, "beyond this base's 2 blocks"),
        ({"peft_type": "CARTRIDGE", "num_virtual_tokens": 40}, {}, "exceed the model's context"),
        ({"peft_type": "CPT", "cpt_token_ids": [5]}, {"packing": True}, "packed rows"),
        ({"peft_type": "CARTRIDGE", "num_virtual_tokens": 4}, {"gradient_checkpointing": True}, "checkpointing"),
    ],
)
def test_what_sizes_and_settings_tell_is_refused_before_the_model_is_loaded(
    config: dict[str, Any], conditions: dict[str, Any], message: str, base: BaseModel
) -> None:
    wanted = Conditions(**{"gradient_checkpointing": False, "packing": False, "max_seq_length": 32} | conditions)
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "peft_config", "config": config}).check(base.facts, wanted)


def test_engines_that_a_type_was_not_tried_under_are_refused() -> None:
    lora, adalora, vera = (parse_method(settings(kind)) for kind in ("LORA", "ADALORA", "VERA"))
    assert not any(lora.refuses_engine(engine) for engine in ("ddp", "zero1", "zero2", "zero3", "fsdp2"))
    refused = [bool(adalora.refuses_engine(engine)) for engine in ("ddp", "zero0", "zero2", "zero3")]
    assert refused == [False, True, True, True]
    assert [bool(vera.refuses_engine(engine)) for engine in ("zero2", "zero3", "fsdp2")] == [False, True, True]


def test_tokens_are_named_by_their_text(base: BaseModel) -> None:
    config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [128000]}
    _, model = attached({"kind": "peft_config", "config": config, "tokens": ["w5", "</s>"]}, base)
    assert model.peft_config["default"].token_indices == [5, 1]
    with pytest.raises(ConfigError, match="no single token"):
        attached({"kind": "peft_config", "config": config, "tokens": ["w5 w6"]}, base)


@pytest.mark.parametrize("kind", ["CARTRIDGE", "PREFIX_TUNING"])
def test_a_cache_starts_from_what_the_base_computes_for_a_text(kind: str, base: BaseModel) -> None:
    _, model = attached(settings(kind) | {"text": "w5 w6"}, base)
    ids = torch.tensor([[5, 6, 5, 6]])
    plain = load_base(base)
    with torch.no_grad():
        cache = plain(input_ids=ids, use_cache=True).past_key_values
    keys = model.get_prompt(1).layers[0].keys
    torch.testing.assert_close(keys, cache.layers[0].keys)


def test_the_context_of_cpt_is_the_text(base: BaseModel) -> None:
    _, model = attached({"kind": "peft_config", "config": {"peft_type": "CPT"}, "text": "w9 w8 w7"}, base)
    torch.testing.assert_close(model.get_prompt(1)[0], model.word_embeddings(torch.tensor([9, 8, 7])))
