"""LLaMA-Adapter: prompts behind a gate in the top blocks of the families that PEFT knows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import attached, logits, save, train
from tests.models.tiny import tiny_base, write_tiny_llama

PLAIN = Conditions(gradient_checkpointing=False, packing=True, max_seq_length=64)


def test_a_prompt_and_a_gate_train_in_each_adapted_block(base: BaseModel) -> None:
    _, model = attached({"kind": "llama_adapter", "adapter_len": 3, "adapter_layers": 1}, base)
    trainable = {name: part.numel() for name, part in model.named_parameters() if part.requires_grad}
    block = "base_model.model.model.layers.1.self_attn"  # the top one
    assert trainable == {f"{block}.adaption_prompt": 3 * 64, f"{block}.adaption_gate": 1}


@pytest.mark.parametrize(("depth", "adapted"), [(1, 1), (2, 2), (5, 5), (16, 15), (32, 30)])
def test_thirty_of_every_32_blocks_are_adapted(depth: int, adapted: int, base: BaseModel) -> None:
    model = load_base(base)
    model.config.num_hidden_layers = depth
    assert parse_method({"kind": "llama_adapter"}).peft_config(model).adapter_layers == adapted  # type: ignore[attr-defined]


def test_the_closed_gate_is_the_base_itself(base: BaseModel) -> None:
    _, model = attached({"kind": "llama_adapter"}, base)
    torch.testing.assert_close(logits(model), logits(load_base(base)))


def test_attention_adds_what_the_gate_lets_through_of_the_prompt(base: BaseModel) -> None:
    """o(Attn(x) + g softmax(q K_p^T / sqrt d) V_p), with the queries rotated and the prompt's keys not."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    _, model = attached({"kind": "llama_adapter", "adapter_len": 3}, base)
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn")
    layer.adaption_gate.data.fill_(0.7)
    own, x = layer.model, torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(1))
    rotation = model.get_base_model().model.rotary_emb(x, torch.arange(5)[None])
    with torch.no_grad():
        made = layer(
            hidden_states=x, position_embeddings=rotation, attention_mask=None, position_ids=torch.arange(5)[None]
        )[0]
        plain = own(hidden_states=x, position_embeddings=rotation, attention_mask=None)[0]
        q = own.q_proj(x).view(1, 5, 4, 16).transpose(1, 2)
        q = apply_rotary_pos_emb(q, q, *rotation)[0]
        keys, values = (
            project(layer.adaption_prompt).view(1, 3, 2, 16).transpose(1, 2).repeat_interleave(2, dim=1)
            for project in (own.k_proj, own.v_proj)
        )
        gated = 0.7 * torch.softmax(q @ keys.transpose(2, 3) / math.sqrt(16), dim=-1) @ values
        expected = plain + own.o_proj(gated.transpose(1, 2).reshape(1, 5, 64))
    torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_the_other_families_of_peft_train_and_come_back(family: str, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "base")
    torch.manual_seed(0)
    if family == "gpt2":
        GPT2LMHeadModel(
            GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
        ).save_pretrained(folder)
    else:
        MistralForCausalLM(
            MistralConfig(
                vocab_size=128,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.2,
            )
        ).save_pretrained(folder)
    base = tiny_base(folder)
    method, model = attached({"kind": "llama_adapter"}, base)
    method.check(base.facts, PLAIN)
    train(model, 5)
    (tmp_path / "adapter").mkdir()
    save(method, model, tmp_path / "adapter")
    loaded = method.load(load_base(base), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(load_base(base)))


def test_another_family_is_refused_by_name_with_what_would_work(base: BaseModel) -> None:
    facts = base.facts.model_copy(update={"model_type": "qwen3"})
    for settings in ({"kind": "llama_adapter"}, {"kind": "peft_config", "config": {"peft_type": "ADAPTION_PROMPT"}}):
        with pytest.raises(ConfigError, match=r"qwen3.*gpt2, llama, mistral.*prefix_tuning") as caught:
            parse_method(settings).check(facts, PLAIN)
        assert caught.value.exit_code == 10


def test_more_blocks_than_there_are_is_refused(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match="3 is over the model's 2 blocks"):
        parse_method({"kind": "llama_adapter", "adapter_layers": 3}).check(base.facts, PLAIN)


def test_it_trains_in_float32_on_a_16_bit_base_without_mixed_precision(half_base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({"kind": "llama_adapter"}, half_base)
    train(model, 3)
    assert all(part.dtype == torch.float32 for part in model.parameters() if part.requires_grad)
    save(method, model, tmp_path)
    assert torch.isfinite(logits(method.load(load_base(half_base), tmp_path))).all()


def test_it_has_no_merged_form() -> None:
    assert "behind a gate" in parse_method({"kind": "llama_adapter"}).unmergeable()
