from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import Conditions, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base, load_tokenizer
from tests.methods.cases import attached, save

PROMPTS = ("prompt_tuning", "prefix_tuning", "p_tuning")


def conditions(max_seq_length: int = 32, *, packing: bool = False) -> Conditions:
    return Conditions(gradient_checkpointing=False, packing=packing, max_seq_length=max_seq_length)


def virtual_tokens(model: nn.Module) -> torch.Tensor:
    weight: torch.Tensor = model.prompt_encoder["default"].embedding.weight.detach()
    return weight


@pytest.mark.parametrize("kind", PROMPTS)
def test_virtual_tokens_count_against_the_context(base: BaseModel, kind: str) -> None:
    method = parse_method({"kind": kind, "num_virtual_tokens": 24})
    method.check(base.facts, conditions(40))
    with pytest.raises(ConfigError, match=r"\(24\) \+ max_seq_length \(41\).*64.*num_virtual_tokens to at most 23"):
        method.check(base.facts, conditions(41))


@pytest.mark.parametrize("kind", PROMPTS)
def test_packing_is_refused(base: BaseModel, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.packing: false"):
        parse_method({"kind": kind}).check(base.facts, conditions(packing=True))


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_number_of_virtual_tokens_is_the_settings(base: BaseModel, kind: str) -> None:
    _, model = attached({"kind": kind, "num_virtual_tokens": 7}, base)
    assert len(virtual_tokens(model)) == 7


def test_sampled_virtual_tokens_start_as_embeddings_and_random_ones_do_not(base: BaseModel) -> None:
    embeddings = load_base(base).get_input_embeddings().weight.detach()
    _, sampled = attached({"kind": "prompt_tuning"}, base)
    _, noise = attached({"kind": "prompt_tuning", "prompt_tuning_init": "RANDOM"}, base)
    assert (torch.cdist(virtual_tokens(sampled), embeddings).min(dim=1).values < 1e-2).all()
    assert (torch.cdist(virtual_tokens(noise), embeddings).min(dim=1).values > 1).all()


def test_virtual_tokens_can_start_as_a_text(base: BaseModel) -> None:
    settings = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "w9 w4", "num_virtual_tokens": 4}
    _, model = attached({"kind": "prompt_tuning", **settings}, base)
    ids = load_tokenizer(base)("w9 w4 w9 w4")["input_ids"]
    assert torch.equal(virtual_tokens(model), load_base(base).get_input_embeddings().weight.detach()[ids])


def test_the_projection_and_its_width_are_settings(base: BaseModel) -> None:
    _, plain = attached({"kind": "prefix_tuning", "prefix_projection": False}, base)
    _, wide = attached({"kind": "prefix_tuning", "encoder_hidden_size": 24}, base)
    per_layer_and_token = 2 * 2 * 16
    assert virtual_tokens(plain).shape == (20, 2 * per_layer_and_token)
    assert wide.prompt_encoder["default"].transform[0].out_features == 24


def test_the_encoder_of_p_tuning_is_a_setting(base: BaseModel) -> None:
    _, mlp = attached({"kind": "p_tuning", "encoder_hidden_size": 24}, base)
    _, lstm = attached({"kind": "p_tuning", "encoder_reparameterization_type": "LSTM"}, base)
    assert mlp.prompt_encoder["default"].mlp_head[0].out_features == 24
    assert not hasattr(mlp.prompt_encoder["default"], "lstm_head")
    assert hasattr(lstm.prompt_encoder["default"], "lstm_head")


def test_an_adapter_that_does_not_fit_or_is_incomplete_is_refused(base: BaseModel, tmp_path: Path) -> None:
    lora, model = attached({"kind": "lora", "target_modules": ["q_proj"]}, base)
    save(lora, model, tmp_path)
    config = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace("q_proj", "v_proj"))
    with pytest.raises(IntegrityError, match="does not fit the base"):
        lora.load(load_base(base), tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors is missing"):
        lora.load(load_base(base), tmp_path)
