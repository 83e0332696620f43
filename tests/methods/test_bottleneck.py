"""Bottleneck adapters against their formulas, written out with plain tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BloomConfig, BloomForCausalLM

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import Conditions, Source, method_code, parse_method
from tasks.methods._bottleneck.blocks import SITES, blocks_of, sites_of
from tasks.methods._bottleneck.modules import adapters_in
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tasks.models.values import Quantization
from tests.methods.cases import attached, logits, loss, save, train
from tests.models.families import FAMILIES, HIDDEN, LAYERS, tiny_model, tiny_tokens

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
WEIGHT = "adapter_model.safetensors"


def adapted(model: nn.Module, **settings: Any) -> nn.Module:
    """With adapters whose weights are large enough to see."""
    model = parse_method({"kind": "adapter", **settings}).attach(model).eval()
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def own_weights(model: nn.Module, block: int, which: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_down, b_down, W_up, b_up of one bottleneck."""
    found = {name: part.detach() for name, part in model.named_parameters() if f".{block}.adapter.{which}." in name}
    ends = ("down.weight", "down.bias", "up.weight", "up.bias")
    down, down_bias, up, up_bias = (next(part for name, part in found.items() if name.endswith(end)) for end in ends)
    return down, down_bias, up, up_bias


def answer(weights: tuple[Tensor, Tensor, Tensor, Tensor], z: Tensor) -> Tensor:
    """A(z) = W_up relu(W_down z + b_down) + b_up."""
    down, down_bias, up, up_bias = weights
    hidden = torch.einsum("md,btd->btm", down, z) + down_bias
    return torch.einsum("dm,btm->btd", up, hidden.clamp(min=0)) + up_bias


def llama_logits(model: nn.Module, ids: Tensor, block_of: Callable[..., Tensor]) -> Tensor:
    backbone = model.model
    x = backbone.embed_tokens(ids)
    positions = backbone.rotary_emb(x, torch.arange(ids.shape[1])[None])
    for index, block in enumerate(backbone.layers):

        def attention(u: Tensor, block: nn.Module = block) -> Tensor:
            out: Tensor = block.self_attn(hidden_states=u, position_embeddings=positions, attention_mask=None)[0]
            return out

        norms = (block.input_layernorm, block.post_attention_layernorm)
        x = block_of(index, x, norms, attention, block.mlp)
    out: Tensor = model.lm_head(backbone.norm(x))
    return out


def gpt2_logits(model: nn.Module, ids: Tensor, block_of: Callable[..., Tensor]) -> Tensor:
    backbone = model.transformer
    x = backbone.wte(ids) + backbone.wpe(torch.arange(ids.shape[1]))
    for index, block in enumerate(backbone.h):

        def attention(u: Tensor, block: nn.Module = block) -> Tensor:
            out: Tensor = block.attn(u)[0]
            return out

        x = block_of(index, x, (block.ln_1, block.ln_2), attention, block.mlp)
    out: Tensor = model.lm_head(backbone.ln_f(x))
    return out


def block_by_the_book(model: nn.Module, variant: str) -> Callable[..., Tensor]:
    """A pre-norm block with the adapter that the paper of the variant describes."""

    def houlsby(index: int, x: Tensor, norms: Any, attention: Any, mlp: Any) -> Tensor:
        a = attention(norms[0](x))
        x = x + (a + answer(own_weights(model, index, "attention"), a))
        f = mlp(norms[1](x))
        return x + (f + answer(own_weights(model, index, "ffn"), f))

    def pfeiffer(index: int, x: Tensor, norms: Any, attention: Any, mlp: Any) -> Tensor:
        x = x + attention(norms[0](x))
        s = x + mlp(norms[1](x))
        return s + answer(own_weights(model, index, "ffn"), s)

    def parallel(index: int, x: Tensor, norms: Any, attention: Any, mlp: Any) -> Tensor:
        x = x + attention(norms[0](x))
        u = norms[1](x)
        return x + (mlp(u) + 4 * answer(own_weights(model, index, "ffn"), u))

    return {"houlsby": houlsby, "pfeiffer": pfeiffer, "parallel": parallel}[variant]


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize(("family", "by_hand"), [("llama", llama_logits), ("gpt2", gpt2_logits)])
def test_each_variant_is_its_papers_formula(family: str, by_hand: Any, variant: str) -> None:
    ids = tiny_tokens()
    model = adapted(tiny_model(family), variant=variant, bottleneck_size=5)
    with torch.no_grad():
        expected = by_hand(tiny_model(family), ids, block_by_the_book(model, variant))
        found = model(ids).logits
        plain = tiny_model(family)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((plain - expected).abs().max()) > 0.5


@pytest.mark.parametrize("family", sorted(SITES))
def test_a_block_of_every_family_is_the_identity_without_its_two_known_projections(family: str) -> None:
    model = tiny_model(family)
    sites = sites_of(family, "here")
    blocks = blocks_of(model, "here")
    assert len(blocks) == LAYERS
    seen: dict[str, Tensor] = {}
    for block in blocks:
        for site in (sites.attention_output, sites.ffn_output):
            block.get_submodule(site).register_forward_hook(lambda *given: given[2] * 0)
    block = blocks[1]
    block.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    block.register_forward_hook(
        lambda *given: seen.update(out=given[2][0] if isinstance(given[2], tuple) else given[2])
    )
    block.get_submodule(sites.ffn_input).register_forward_hook(lambda *given: seen.update(u=given[1][0]))
    block.get_submodule(sites.ffn_output).register_forward_hook(lambda *given: seen.update(f=given[2]))
    with torch.no_grad():
        model(tiny_tokens())
    assert seen["u"].shape[-1] == seen["f"].shape[-1] == HIDDEN
    torch.testing.assert_close(seen["out"], seen["x"])


@pytest.mark.parametrize("family", sorted(SITES))
@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
def test_every_family_trains_each_of_its_adapters_and_reloads(family: str, variant: str, tmp_path: Path) -> None:
    ids = tiny_tokens()
    method = parse_method({"kind": "adapter", "variant": variant, "bottleneck_size": 3})
    model = adapted(tiny_model(family), variant=variant, bottleneck_size=3)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
    assert len(trained) == LAYERS * 4 * (2 if variant == "houlsby" else 1)
    assert all(".adapter." in name and part.grad is not None and part.grad.any() for name, part in trained.items())
    method.save(model, tmp_path, {name: part.detach() for name, part in trained.items()})
    loaded = method.load(tiny_model(family), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({"bottleneck_size": 7}, 2 * (2 * HIDDEN * 7 + 7 + HIDDEN)),
        ({"variant": "pfeiffer"}, 2 * HIDDEN * (HIDDEN // 16) + HIDDEN // 16 + HIDDEN),
        ({"variant": "pfeiffer", "reduction_factor": 4}, 2 * HIDDEN * (HIDDEN // 4) + HIDDEN // 4 + HIDDEN),
        ({"variant": "parallel", "bottleneck_size": 64}, 2 * HIDDEN * 64 + 64 + HIDDEN),
        ({"variant": "parallel"}, 2 * HIDDEN * HIDDEN + HIDDEN + HIDDEN),
        ({"bottleneck_size": 7, "bias": False}, 2 * 2 * HIDDEN * 7),
        ({"bottleneck_size": 7, "train_layer_norms": True}, 2 * (2 * HIDDEN * 7 + 7 + HIDDEN) + 2 * HIDDEN),
    ],
)
def test_parameters_are_as_many_as_the_formula_says(settings: dict[str, Any], each: int) -> None:
    model = adapted(tiny_model("llama"), **settings)
    assert sum(part.numel() for part in model.parameters() if part.requires_grad) == LAYERS * each


def test_the_usual_sizes_are_64_and_a_sixteenth_of_the_width() -> None:
    sizes = {
        variant: parse_method({"kind": "adapter", "variant": variant}).shape(1024, 2).size  # type: ignore[attr-defined]
        for variant in ("houlsby", "pfeiffer", "parallel")
    }
    assert sizes == {"houlsby": 64, "pfeiffer": 64, "parallel": 64}
    assert parse_method({"kind": "adapter", "variant": "pfeiffer"}).shape(4096, 2).size == 256  # type: ignore[attr-defined]


def first_answer(settings: Mapping[str, Any], *, training: bool = False) -> Tensor:
    """Of the second block's feed-forward adapter, to all ones; the weights as `adapted` draws them."""
    model = adapted(tiny_model("llama"), bottleneck_size=6, **settings)
    adapter = list(adapters_in(model))[-1].train(training)
    torch.manual_seed(0)
    with torch.no_grad():
        out: Tensor = adapter.ffn(torch.ones(1, 1, HIDDEN))
    return out


@pytest.mark.parametrize("settings", [{"non_linearity": "tanh"}, {"scaling": 2.0}, {"bias": False}])
def test_what_shapes_the_answer_changes_it(settings: dict[str, Any]) -> None:
    assert not torch.allclose(first_answer(settings), first_answer({}))


def test_scaling_is_a_factor_and_dropout_is_for_training_alone() -> None:
    torch.testing.assert_close(first_answer({"scaling": 2.0}), 2 * first_answer({}))
    assert torch.equal(first_answer({"dropout": 0.5}), first_answer({}))
    assert not torch.allclose(first_answer({"dropout": 0.5}, training=True), first_answer({}))


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
def test_the_identity_is_where_training_starts_or_next_to_it(variant: str) -> None:
    ids = tiny_tokens()
    plain = tiny_model("llama")(ids).logits.detach()

    def distance(init: str) -> float:
        torch.manual_seed(1)
        method = parse_method({"kind": "adapter", "variant": variant, "init": init})
        found = method.attach(tiny_model("llama"))(ids).logits.detach()
        return float((found - plain).abs().max() / plain.abs().max())

    assert distance("identity") == 0.0
    assert distance("paper") < 0.02
    assert (distance("paper") == 0.0) == (variant == "parallel")


def test_only_the_chosen_blocks_get_an_adapter() -> None:
    model = adapted(tiny_model("gpt2"), layers_to_transform=[1])
    assert [adapter.index for adapter in adapters_in(model)] == [1]
    assert all(".h.1.adapter." in name for name, part in model.named_parameters() if part.requires_grad)


def test_layer_norms_train_as_copies_that_take_the_place_of_the_frozen_ones() -> None:
    method = parse_method({"kind": "adapter", "train_layer_norms": True, "init": "identity", "bottleneck_size": 2})
    model = method.attach(tiny_model("llama"))
    own = {name: part for name, part in model.named_parameters() if ".norms." in name}
    assert len(own) == 2 * LAYERS
    expected = tiny_model("llama")
    with torch.no_grad():
        for part in own.values():
            part *= 1.7
        for block in expected.model.layers:
            block.input_layernorm.weight *= 1.7
            block.post_attention_layernorm.weight *= 1.7
        torch.testing.assert_close(model(tiny_tokens()).logits, expected(tiny_tokens()).logits)
        with method.base_alone(model):
            torch.testing.assert_close(model(tiny_tokens()).logits, tiny_model("llama")(tiny_tokens()).logits)


def test_layer_norms_of_which_a_rank_has_but_a_part_cannot_be_copied() -> None:
    assert "copies" in parse_method({"kind": "adapter", "train_layer_norms": True}).refuses_engine("zero3")
    assert parse_method({"kind": "adapter"}).refuses_engine("zero3") == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck_size": 4, "reduction_factor": 4}, "say the same thing"),
        ({"layers_to_transform": []}, "at least 1 item"),
        ({"variant": "compacter"}, "houlsby"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "adapter", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers_to_transform": [1, 2]}, r"there is no block 2.*Allowed: 0 to 1"),
        ({"reduction_factor": 65}, "leaves nothing of a width of 64"),
    ],
)
def test_what_the_model_has_no_room_for_is_refused_before_it_is_loaded(
    base: BaseModel, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "adapter", **settings}).check(base.facts, PLAIN)


@pytest.mark.parametrize("kind", ["adapter", "adapter_drop", "mam_adapter", "adapter_fusion"])
@pytest.mark.parametrize("model_type", ["mixtral", "falcon"])
def test_an_architecture_whose_blocks_are_not_known_is_refused_by_name(
    base: BaseModel, kind: str, model_type: str
) -> None:
    more = {"adapters": ["a", "b"]} if kind == "adapter_fusion" else {}
    facts = base.facts.model_copy(update={"model_type": model_type})
    with pytest.raises(ConfigError, match=f"blocks of {model_type} are not known.*bloom, gemma.*kind: lora") as caught:
        parse_method({"kind": kind, **more}).check(facts, PLAIN)
    assert caught.value.exit_code == 10


def test_a_bloom_that_goes_past_its_own_layers_is_refused() -> None:
    config = BloomConfig(vocab_size=16, hidden_size=8, n_layer=1, n_head=2, pretraining_tp=2, slow_but_exact=True)
    with pytest.raises(ConfigError, match="slow_but_exact: false"):
        parse_method({"kind": "adapter"}).attach(BloomForCausalLM(config))


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_trains_in_float32_beside_a_quantised_base(base: BaseModel, bits: int, tmp_path: Path) -> None:
    quantization = Quantization.model_validate({"bits": bits})
    method = parse_method({"kind": "adapter", "bottleneck_size": 4})
    assert method.refuses_quantization(quantization) == ""
    model = method.attach(load_base(base, quantization=quantization)).train()
    before = float(loss(model))
    train(model, 10)
    assert float(loss(model)) < before
    save(method, model, tmp_path)
    loaded = method.load(load_base(base, quantization=quantization), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model))


def test_an_adapter_computes_in_float32_and_answers_in_the_dtype_of_a_16_bit_base(half_base: BaseModel) -> None:
    _, model = attached({"kind": "adapter", "bottleneck_size": 4}, half_base)
    loss(model).backward()
    grads = [part.grad for part in model.parameters() if part.requires_grad]
    assert {grad.dtype for grad in grads if grad is not None} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_the_cache_of_generation_sees_the_adapters() -> None:
    ids = tiny_tokens(rows=1)
    model = adapted(tiny_model("llama"), bottleneck_size=5)
    made = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    by_hand = ids
    with torch.no_grad():
        for _ in range(5):
            by_hand = torch.cat([by_hand, model(by_hand, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(made, by_hand)


# --- folders ---------------------------------------------------------------------------------------------------------


def folder_of(base: BaseModel, folder: Path, **settings: Any) -> Source:
    method, model = attached({"kind": "adapter", "bottleneck_size": 4, **settings}, base)
    train(model)
    folder.mkdir(parents=True, exist_ok=True)
    save(method, model, folder)
    return Source(reference="run-1", path=folder, digest="d", holds="adapter", method=method.model_dump())


def test_the_folder_says_whose_it_is_and_what_rebuilds_it(base: BaseModel, tmp_path: Path) -> None:
    folder_of(base, tmp_path, variant="parallel", layers_to_transform=[1])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["format"], config["version"], config["kind"]) == ("tuneline-adapter", 1, "adapter")
    assert "peft_type" not in config
    assert config["parts"]["layers"] == [1]
    assert sorted(load_file(tmp_path / WEIGHT)) == [
        f"model.layers.1.adapter.ffn.{side}.{part}" for side in ("down", "up") for part in ("bias", "weight")
    ]


def test_loading_follows_the_folder_and_not_the_settings(base: BaseModel, tmp_path: Path) -> None:
    folder_of(base, tmp_path, variant="pfeiffer")
    mine, other = (parse_method({"kind": "adapter", "variant": variant}) for variant in ("pfeiffer", "houlsby"))
    assert torch.equal(logits(mine.load(load_base(base), tmp_path)), logits(other.load(load_base(base), tmp_path)))


def test_a_folder_that_is_incomplete_or_of_another_base_is_refused(base: BaseModel, tmp_path: Path) -> None:
    method = parse_method({"kind": "adapter"})
    folder_of(base, tmp_path)
    with pytest.raises(IntegrityError, match=r"is for llama of 2 blocks of width 64, .* width 32"):
        method.load(tiny_model("llama"), tmp_path)
    tensors = load_file(tmp_path / WEIGHT)
    name = min(tensors)
    save_file({**tensors, name: tensors[name][:1].clone()}, tmp_path / WEIGHT)
    with pytest.raises(IntegrityError, match=rf"{name} is \[1\] in the file, \[4\] in the model"):
        method.load(load_base(base), tmp_path)
    save_file({other: part for other, part in tensors.items() if other != name}, tmp_path / WEIGHT)
    with pytest.raises(IntegrityError, match=f"does not fit the base: {name}"):
        method.load(load_base(base), tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(IntegrityError, match="none of ours"):
        method.load(load_base(base), tmp_path)
    (tmp_path / WEIGHT).unlink()
    with pytest.raises(IntegrityError, match=f"{WEIGHT} is missing"):
        method.load(load_base(base), tmp_path)


def test_training_goes_on_from_an_earlier_adapter_of_the_same_shape(base: BaseModel, tmp_path: Path) -> None:
    source = folder_of(base, tmp_path)
    method, model = attached({"kind": "adapter", "bottleneck_size": 4}, base, seed=8)
    method.start_from(model, source)
    assert torch.equal(logits(model), logits(method.load(load_base(base), tmp_path)))
    train(model)


def test_an_earlier_result_of_another_shape_or_kind_is_refused(base: BaseModel, tmp_path: Path) -> None:
    source = folder_of(base, tmp_path / "own")
    method, model = attached({"kind": "adapter", "bottleneck_size": 8}, base)
    with pytest.raises(ConfigError, match=r"run-1 has size 4, these settings give 8.*init_from"):
        method.start_from(model, source)
    lora, tuned = attached({"kind": "lora", "r": 2}, base)
    (tmp_path / "lora").mkdir()
    save(lora, tuned, tmp_path / "lora")
    theirs = Source(reference="run-2", path=tmp_path / "lora", digest="d", holds="adapter", method={"kind": "lora"})
    with pytest.raises(ConfigError, match=r"run-2 \(made by lora\) is no adapter of this family"):
        method.start_from(model, theirs)
    with pytest.raises(ConfigError, match="no adapter of this family"):
        method.start_from(model, theirs.model_copy(update={"holds": "model"}))
    small = parse_method({"kind": "adapter", "bottleneck_size": 4})
    with pytest.raises(ConfigError, match=r"run-1.*the base is llama of 2 blocks of width 32"):
        small.start_from(small.attach(tiny_model("llama")), source)


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "s = relu between two matrices is no matrix"),
        ({"non_linearity": "identity", "variant": "pfeiffer"}, "residual stream"),
        ({"non_linearity": "identity", "variant": "parallel"}, "beside a non-linear feed-forward"),
        ({"non_linearity": "identity"}, "bias: false"),
        ({"non_linearity": "identity", "bias": False, "train_layer_norms": True}, "train_layer_norms: false"),
        ({"non_linearity": "identity", "bias": False}, ""),
    ],
)
def test_what_cannot_be_folded_is_said_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    found = parse_method({"kind": "adapter", **settings}).unmergeable()
    assert (reason in found) and bool(reason) == bool(found)


@pytest.mark.parametrize("family", sorted(SITES))
def test_a_linear_houlsby_adapter_of_every_family_is_folded_into_its_projections(family: str, tmp_path: Path) -> None:
    settings = {"non_linearity": "identity", "bias": False, "bottleneck_size": 4, "scaling": 1.5}
    method = parse_method({"kind": "adapter", **settings})
    for name in ("base", "adapter", "merged"):
        (tmp_path / name).mkdir()
    tiny_model(family).save_pretrained(tmp_path / "base")
    model = adapted(tiny_model(family), **settings)
    trained = {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}
    method.save(model, tmp_path / "adapter", trained)
    method.merge_weights(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", 20_000)
    (tmp_path / "merged" / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    merged = type(model).from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        expected, found = model(tiny_tokens()).logits, merged(tiny_tokens()).logits
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_the_code_of_the_helpers_decides_too() -> None:
    assert {
        "tasks.methods._bottleneck.blocks",
        "tasks.methods._bottleneck.modules",
        "tasks.methods._bottleneck.method",
    } <= set(method_code({"kind": "adapter"}))


def test_every_known_architecture_has_a_tiny_model_here() -> None:
    assert FAMILIES.keys() == SITES.keys()


@pytest.mark.parametrize(("variant", "down", "up"), [("houlsby", 0.02, 0.02), ("parallel", 1 / 32, 0.0)])
def test_weights_start_within_the_papers_bounds(variant: str, down: float, up: float) -> None:
    method = parse_method({"kind": "adapter", "variant": variant, "bottleneck_size": 64})
    model = method.attach(tiny_model("llama", hidden_size=1024, num_hidden_layers=1))
    found = next(adapters_in(model)).ffn
    for weight, bound in ((found.down.weight, down), (found.up.weight, up)):
        assert bound * 0.98 <= float(weight.detach().abs().max()) <= bound
    assert not found.down.bias.any()
    assert not found.up.bias.any()


def test_pfeiffers_weights_start_at_its_spread() -> None:
    model = parse_method({"kind": "adapter", "variant": "pfeiffer"}).attach(tiny_model("llama", hidden_size=1024))
    found = next(adapters_in(model)).ffn
    for weight in (found.down.weight, found.up.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.03)
