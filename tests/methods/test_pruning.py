from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, parse_method, refuse_quantization
from tasks.methods._pruning.channels import remove_channels
from tasks.methods._targets import linear_layers
from tasks.models import BaseModel, Quantization
from tasks.models.loading import load_base
from tests.methods.cases import attached, logits, loss, save, train
from tests.models.tiny import tiny_base, token_batch, write_tiny_llama

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)
GATED = {"intermediate_size": 24, "num_key_value_heads": 2}
WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": WIDE | GATED,
    "mistral": WIDE | GATED,
    "qwen2": WIDE | GATED,
    "qwen3": WIDE | GATED | {"head_dim": 8},
    "gemma": WIDE | GATED | {"head_dim": 8},
    "gemma2": WIDE | GATED | {"head_dim": 8},
    "gemma3_text": WIDE | GATED | {"head_dim": 8},
    "olmo2": WIDE | GATED,
    "smollm3": WIDE | GATED | {"pad_token_id": None},
    "granite": WIDE | GATED,
    "phi3": WIDE | GATED | {"pad_token_id": None},
    "glm": WIDE | GATED | {"head_dim": 8, "pad_token_id": None},
    "glm4": WIDE | GATED | {"head_dim": 8, "pad_token_id": None},
    "phi": WIDE | {"intermediate_size": 24},
    "gpt_neox": WIDE | {"intermediate_size": 24},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 128},
    "opt": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24, "vocab_size": 128}
    | {"word_embed_proj_dim": 16},
}


def pruned_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in linear_layers(model).items() if name != "lm_head"}


@pytest.mark.parametrize("amount", [0.3, 0.9])
def test_each_layer_loses_the_weights_that_torch_s_own_pruning_would_take(base: BaseModel, amount: float) -> None:
    _, model = attached({"kind": "pruning", "amount": amount}, base)
    for name, layer in pruned_layers(load_base(base)).items():
        expected = prune.l1_unstructured(layer, "weight", amount).weight
        assert torch.equal(model.get_submodule(name).weight, expected)


def test_one_threshold_for_all_layers_is_torch_s_global_pruning(base: BaseModel) -> None:
    _, model = attached({"kind": "pruning", "amount": 0.4, "scope": "global"}, base)
    layers = pruned_layers(load_base(base))
    prune.global_unstructured([(layer, "weight") for layer in layers.values()], prune.L1Unstructured, amount=0.4)
    assert all(torch.equal(model.get_submodule(name).weight, layer.weight) for name, layer in layers.items())
    assert len({float((layer.weight == 0).float().mean()) for layer in layers.values()}) > 1


def test_embeddings_norms_and_the_output_layer_keep_every_weight(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({"kind": "pruning", "amount": 0.9}, base)
    save(method, model, tmp_path)
    before, after = load_base(base), AutoModelForCausalLM.from_pretrained(tmp_path)
    layers = {f"{name}.weight" for name in pruned_layers(before)}
    for (name, one), other in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert name in layers or torch.equal(one, other)


def test_what_computes_is_the_masked_sum_of_the_weight_and_its_low_rank_update(base: BaseModel) -> None:
    _, model = attached({"kind": "pruning", "r": 4, "lora_alpha": 12}, base)
    layer, update = model.model.layers[1].mlp.up_proj, model.model.layers[1].mlp.up_proj.parametrizations.weight[0]
    nn.init.normal_(update.lora_B)
    weight = load_base(base).model.layers[1].mlp.up_proj.weight
    mask = weight.abs() > weight.abs().flatten().median()
    given = torch.randn(3, 64)
    expected = given @ ((weight + 12 / 4 * update.lora_B @ update.lora_A) * mask).T
    torch.testing.assert_close(layer(given), expected)


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_as_many_weights_train_as_the_closed_form_says(base: BaseModel, structure: str) -> None:
    _, model = attached({"kind": "pruning", "r": 4, "structure": structure, "amount": 0.25}, base)
    inner = 96 if structure == "structured" else 128
    attention = 4 * ((64 + 64) + (64 + 32) + (64 + 32) + (64 + 64))
    expected = 2 * (attention + 4 * 3 * (64 + inner))
    assert sum(part.numel() for part in model.parameters() if part.requires_grad) == expected


@pytest.mark.parametrize(
    "settings", [{"amount": 0.75}, {"scope": "global"}, {"structure": "structured"}], ids=lambda given: str(given)
)
def test_recovery_lowers_the_loss_and_the_saved_model_is_the_trained_one(
    base: BaseModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    method, model = attached({"kind": "pruning", "r": 8, **settings}, base)
    before = loss(model).item()
    train(model, 12)
    assert loss(model).item() < before / 3
    save(method, model, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert float((logits(saved) - logits(model)).abs().max()) <= 1e-6
    explained = method.explain(saved, [])
    share = 0.0 if "structure" in settings else settings.get("amount", 0.5)
    assert explained["sparsity/all"] == pytest.approx(share, abs=1e-9)
    assert explained["parameters"] == sum(part.numel() for part in saved.parameters())
    layers = [explained[f"sparsity/{name}"] for name in pruned_layers(saved)]
    assert "scope" in settings or layers == pytest.approx([share] * len(layers), abs=1e-9)


def test_the_saved_folder_is_a_standard_model_with_another_width_and_nothing_else(
    base: BaseModel, tmp_path: Path
) -> None:
    method, model = attached({"kind": "pruning", "structure": "structured", "amount": 0.3, "r": 4}, base)
    save(method, model, tmp_path)
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, base.path))
    assert ours == theirs | {"intermediate_size": 128 - 38}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in base.path.iterdir()}


@pytest.mark.parametrize("settings", [{}, {"structure": "structured"}], ids=["unstructured", "structured"])
def test_gpt2_which_stores_its_weights_the_other_way_round_is_pruned_too(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = write_tiny_llama(tmp_path / "gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=128, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    ).save_pretrained(folder)
    method, model = attached({"kind": "pruning", "r": 4, **settings}, tiny_base(folder))
    train(model)
    (tmp_path / "saved").mkdir()
    save(method, model, tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert float((logits(saved) - logits(model)).abs().max()) <= 1e-6
    assert method.explain(saved, [])["sparsity/all"] == (0.0 if settings else 0.5)
    assert saved.config.n_inner == (32 if settings else None)


def test_a_16_bit_model_is_saved_in_16_bits_with_all_its_zeros(half_base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({"kind": "pruning", "r": 4}, half_base)
    train(model)
    save(method, model, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert saved.dtype == torch.bfloat16
    assert all(float((layer.weight == 0).double().mean()) == 0.5 for layer in pruned_layers(saved).values())
    assert torch.equal(logits(saved), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_channel_a_block_computes_what_it_would_with_that_channel_at_zero(family: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).eval()
    for part in model.parameters():
        nn.init.normal_(part, std=0.2)
    whole = AutoModelForCausalLM.from_config(config).eval()
    whole.load_state_dict(model.state_dict())
    kept = remove_channels(model, 0.5, "here")
    for narrow, wide in zip(feed_forwards(model), feed_forwards(whole), strict=True):
        silence_all_but(kept, narrow, wide)
    ids = token_batch()
    torch.testing.assert_close(model(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-5)
    assert kept == (32 if family == "gpt2" else 12)
    assert model.num_parameters() < whole.num_parameters()
    assert AutoModelForCausalLM.from_config(model.config).num_parameters() == model.num_parameters()


def feed_forwards(model: nn.Module) -> list[nn.Module]:
    """The layers that read the channels."""
    ends = ("down_proj", "mlp.c_proj", "fc2", "dense_4h_to_h")
    return [layer for name, layer in linear_layers(model).items() if name.endswith(ends)]


def silence_all_but(kept: int, narrow: Any, wide: Any) -> None:
    """Put zeros where `wide` reads a channel that `narrow` lacks, found by comparing columns."""
    transposed = not isinstance(wide, nn.Linear)
    own, columns = (layer.weight.data.T if not transposed else layer.weight.data for layer in (narrow, wide))
    same = (columns[:, None, :] == own[None, :, :]).all(dim=2).any(dim=1)
    assert int(same.sum()) == kept
    columns[~same] = 0


def test_the_channels_of_smallest_norm_over_rows_and_columns_go(base: BaseModel) -> None:
    model = load_base(base)
    mlp = load_base(base).model.layers[0].mlp
    joined = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T], dim=1)
    strongest = joined.norm(dim=1).topk(32).indices.sort().values
    assert remove_channels(model, 0.75, "here") == 32
    assert torch.equal(model.model.layers[0].mlp.gate_proj.weight, mlp.gate_proj.weight[strongest])
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, mlp.down_proj.weight[:, strongest])


def test_a_family_whose_feed_forward_is_not_known_is_refused_by_name(base: BaseModel) -> None:
    facts = base.facts.model_copy(update={"model_type": "bloom"})
    with pytest.raises(ConfigError, match=r"feed-forward of 'bloom'.*llama.*structure: unstructured"):
        parse_method({"kind": "pruning", "structure": "structured"}).check(facts, PLAIN)
    parse_method({"kind": "pruning"}).check(facts, PLAIN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structure": "structured", "scope": "global"}, "scope: global has no meaning"),
        ({"amount": 0}, "amount"),
        ({"amount": 1.0}, "amount"),
        ({"init_from": "run"}, "name it as the model"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "pruning", **settings})


def test_a_rank_above_a_layer_s_smaller_side_is_refused(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match="r: 65 is over the model's hidden size"):
        parse_method({"kind": "pruning", "r": 65}).check(base.facts, PLAIN)
    with pytest.raises(ConfigError, match=r"r: 16 is over the smaller side \(13\) of model.layers.0.mlp.gate_proj"):
        attached({"kind": "pruning", "structure": "structured", "amount": 0.9, "r": 16}, base)


def test_a_quantised_base_is_refused(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"pruning cannot train on a base in nf4: .* must be floats"):
        refuse_quantization(parse_method({"kind": "pruning"}), Quantization(bits=4))


def test_the_same_weights_go_each_time(tmp_path: Path, base: BaseModel) -> None:
    again = base.model_copy(update={"path": write_tiny_llama(tmp_path / "again")})
    models = [
        attached({"kind": "pruning", "scope": "global"}, one, seed=seed)[1] for seed, one in ((0, base), (1, again))
    ]
    masks = [{name: mask for name, mask in model.named_buffers() if name.endswith("mask")} for model in models]
    assert masks[0].keys() == masks[1].keys()
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_the_update_is_computed_in_float32_also_where_the_model_computes_in_16_bits(base: BaseModel) -> None:
    _, model = attached({"kind": "pruning", "r": 4}, base)
    layer = model.model.layers[0].mlp.up_proj
    layer.parametrizations.weight[0].lora_B.data.normal_()
    outside = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, outside)
