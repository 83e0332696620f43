"""Where LoRA starts: each formula against plain tensors or PEFT's own, and what is saved against the untouched base."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, Method, Supplies, parse_method
from tasks.methods._lora.init import alpha_of
from tasks.methods._lora.starts import Directions, Inputs, Start, corda, share_ranks, weight_of
from tasks.models import BaseModel, Quantization
from tasks.models.loading import _quantization_config, load_base
from tests.methods.cases import attached, batches, logits, loss, save, train

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)
QUERY = "model.layers.0.self_attn.q_proj"
TAKES_OUT: list[dict[str, Any]] = [
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "lora_alpha": 7},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "corda"},
]
NF4, FP4, INT8 = (
    Quantization(bits=4),
    Quantization(bits=4, quant_type="fp4", double_quant=False),
    Quantization(bits=8),
)
every_start_from_the_weights = pytest.mark.parametrize("start", TAKES_OUT, ids=lambda start: start["init_lora_weights"])


def lora(**settings: Any) -> dict[str, Any]:
    return {"kind": "lora", "r": 4, "lora_dropout": 0.0} | settings


def layer_of(model: nn.Module, name: str = QUERY) -> Any:
    return model.get_submodule(f"base_model.model.{name}")


def start_of(model: nn.Module, name: str = QUERY) -> Start:
    """A and B of one layer as they stand, the trained half where a start stays beside it."""
    parts = dict(layer_of(model, name).named_parameters())
    a, b = (next(part for key, part in parts.items() if f"{side}.default" in key) for side in ("lora_A", "lora_B"))
    return Start(a.detach(), b.detach())


def saved(method: Method, model: nn.Module, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    save(method, model, folder)
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


def close(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


# --- the formulas -------------------------------------------------------------------------------------------------


def test_pissa_starts_at_the_principal_part_split_in_equal_halves(base: BaseModel) -> None:
    _, model = attached(lora(init_lora_weights="pissa", lora_alpha=12), base)
    u, s, vh = torch.linalg.svd(layer_of(model).get_base_layer().weight)
    a, b = start_of(model)
    assert close(3.0 * b @ a, u[:, :4] @ torch.diag(s[:4]) @ vh[:4]) < 1e-5
    torch.testing.assert_close(a.norm(dim=1), (s[:4] / 3.0).sqrt())
    torch.testing.assert_close(b.norm(dim=0), (s[:4] / 3.0).sqrt())


def test_olora_starts_at_the_first_columns_of_q_and_rows_of_r(base: BaseModel) -> None:
    _, model = attached(lora(init_lora_weights="olora"), base)
    q, r = torch.linalg.qr(layer_of(model).get_base_layer().weight)
    a, b = start_of(model)
    assert close(b @ a, q[:, :4] @ r[:4]) < 1e-5
    assert close(b.T @ b, torch.eye(4)) < 1e-5


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_is_computed_and_what_is_learnt_is_that_of_pefts_changed_base(base: BaseModel, start: str) -> None:
    """PEFT writes W - scale B0 A0 into the base; signs of singular vectors are free, so gradients agree up to them."""
    _, ours = attached(lora(init_lora_weights=start, lora_alpha=12), base)
    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=start, task_type="CAUSAL_LM")
    theirs = get_peft_model(load_base(base), config)
    loss(ours).backward()
    loss(theirs).backward()
    assert close(logits(ours), logits(theirs)) < 1e-5
    grads = {
        name.replace(".parametrizations.weight.original", ".weight"): p.grad for name, p in ours.named_parameters()
    }
    for name, part in theirs.named_parameters():
        if part.requires_grad:
            assert close(grads[name].abs(), part.grad.abs()) < 1e-3, name


def test_corda_takes_the_part_that_answers_the_inputs_most() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator)
    seen = torch.randn(40, 8, generator=generator) * torch.tensor([9.0, 5.0, 1, 1, 0.1, 0.1, 0.1, 0.1])
    covariance = seen.T @ seen
    covariance = covariance / covariance.diagonal().mean() + 0.01 * torch.eye(8)
    u, s, vh = torch.linalg.svd(weight @ covariance)
    expected = u[:, :3] @ torch.diag(s[:3]) @ vh[:3] @ torch.linalg.inv(covariance)
    start = corda(weight, 3, 2.0, Inputs(seen.T @ seen, seen.sum(0), 40))
    assert close(2.0 * start.b @ start.a, expected) < 1e-4
    louder = corda(weight, 3, 2.0, Inputs(100 * seen.T @ seen, 10 * seen.sum(0), 40))
    assert close(louder.a, start.a) < 1e-4  # the inputs' size does not shift weight from A to B
    largest = torch.linalg.svd(weight)
    principal = largest.U[:, :3] @ torch.diag(largest.S[:3]) @ largest.Vh[:3]
    lost, lost_by_pissa = ((seen @ (weight - part).T).norm() for part in (expected, principal))
    assert lost < 0.5 * lost_by_pissa


def test_eva_puts_a_along_the_principal_directions_of_the_answers_inputs(base: BaseModel) -> None:
    _, model = attached(lora(init_lora_weights="eva", rho=1.0), base)
    given: list[torch.Tensor] = []
    plain = load_base(base)
    hook = plain.get_submodule(QUERY).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        for batch in batches():
            plain(input_ids=batch["input_ids"])
    hook.remove()
    answers = torch.cat([states[batch["labels"] != -100] for states, batch in zip(given, batches(), strict=True)])
    _, _, vh = torch.linalg.svd(answers - answers.mean(0))
    a, b = start_of(model)
    assert (a @ vh[:4].T).abs().diagonal().min() > 0.999
    assert not b.any()


def test_eva_gives_rank_to_the_layers_whose_inputs_a_few_directions_explain() -> None:
    rows = torch.eye(4)
    found = {
        "flat": Directions(rows, torch.tensor([0.25, 0.25, 0.25, 0.25])),
        "steep": Directions(rows, torch.tensor([0.6, 0.3, 0.05, 0.05])),
        "level": Directions(rows, torch.tensor([0.26, 0.26, 0.24, 0.24])),
    }
    assert share_ranks(found, 6) == {"flat": 2, "steep": 2, "level": 2}
    assert share_ranks(found, 3) == {"flat": 0, "steep": 2, "level": 1}


def test_the_ranks_of_eva_add_up_to_the_budget_and_stay_below_rho_times_r(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(lora(init_lora_weights="eva"), base)
    config, tensors = saved(method, model, tmp_path)
    ranks = {name: len(tensor) for name, tensor in tensors.items() if ".lora_A." in name}
    assert sum(ranks.values()) == 4 * 14
    assert max(ranks.values()) <= 8
    assert len(set(ranks.values())) > 1
    assert set(config["rank_pattern"].values()) == set(ranks.values()) - {4}
    assert {layer.scaling["default"] for layer in model.modules() if hasattr(layer, "lora_A")} == {32 / 4}
    loaded = method.load(load_base(base), tmp_path)
    told = {f"base_model.model.{name.removeprefix('rank/')}": rank for name, rank in method.explain(loaded, ()).items()}
    assert told == {name.removesuffix(".lora_A.weight"): rank for name, rank in ranks.items()}


def test_rho_of_one_leaves_all_ranks(base: BaseModel) -> None:
    _, level = attached(lora(init_lora_weights="eva", rho=1.0), base)
    assert not level.peft_config["default"].rank_pattern


@pytest.mark.parametrize("start", ["eva", "corda"])
def test_the_start_looks_at_the_first_rows_and_no_more(base: BaseModel, start: str) -> None:
    settings = lora(init_lora_weights=start, layers_to_transform=[0])
    first = Supplies(batches=lambda: islice(batches(), 2))  # of two rows each
    expected = start_of(parse_method(settings).attach(load_base(base), first)).a
    for rows, same in ((4, True), (3, False), (5, False), (None, False)):
        _, model = attached(settings | {"init_rows": rows}, base)
        assert torch.equal(start_of(model).a, expected) == same


# --- beside the untouched base ------------------------------------------------------------------------------------


@every_start_from_the_weights
def test_the_model_starts_as_its_base_whose_weights_stay_and_dropout_does_not_touch(
    base: BaseModel, start: dict[str, Any]
) -> None:
    plain = load_base(base)
    _, model = attached(lora(lora_dropout=0.5, **start), base)
    ids = torch.arange(3, 15)[None]
    model.train()
    assert close(model(input_ids=ids).logits, plain(input_ids=ids).logits) < 1e-5
    inner = {name.replace(".base_layer", ""): part for name, part in model.get_base_model().named_parameters()}
    assert all(torch.equal(inner[name], part) for name, part in plain.named_parameters())


@every_start_from_the_weights
def test_a_plain_lora_of_twice_the_rank_and_the_same_scale_is_saved(
    base: BaseModel, tmp_path: Path, start: dict[str, Any]
) -> None:
    method, model = attached(lora(**start), base)
    before = start_of(model)
    before = Start(before.a.clone(), before.b.clone())
    train(model)
    after = start_of(model)
    config, tensors = saved(method, model, tmp_path)
    a, b = (tensors[f"base_model.model.{QUERY}.lora_{side}.weight"] for side in "AB")
    assert torch.equal(a, torch.cat([after.a, before.a]))
    assert torch.equal(b, torch.cat([after.b, -before.b], dim=1))
    assert not torch.equal(after.a, before.a)
    scale = start.get("lora_alpha", 32) / (math.sqrt(4) if start.get("use_rslora") else 4)
    assert (config["r"], config["lora_alpha"] / config["r"], config["use_rslora"]) == (8, scale, False)
    assert config["init_lora_weights"] is True
    assert len(tensors) == 2 * 14
    assert all(".lora_" in name for name in tensors)


def test_the_saved_scale_is_the_trained_one_to_the_last_bit_of_float32() -> None:
    for rank in range(1, 129):
        for alpha in (1, 7, 16, 32, 0.3):
            scale = alpha / math.sqrt(rank)
            again = alpha_of(scale, 2 * rank) / (2 * rank)
            assert torch.tensor(again, dtype=torch.float32) == torch.tensor(scale, dtype=torch.float32)
            assert alpha_of(alpha / rank, 2 * rank) / (2 * rank) == alpha / rank


@every_start_from_the_weights
def test_on_a_16_bit_base_the_saved_adapter_is_still_what_trained(
    half_base: BaseModel, tmp_path: Path, start: dict[str, Any]
) -> None:
    method, model = attached(lora(**start), half_base)
    train(model)
    save(method, model, tmp_path)
    assert torch.equal(logits(method.load(load_base(half_base), tmp_path)), logits(model))


@every_start_from_the_weights
def test_a_run_that_goes_on_takes_up_what_was_taken_out(base: BaseModel, start: dict[str, Any]) -> None:
    method, model = attached(lora(**start), base)
    kept = {name: tensor.clone() for name, tensor in method.training_state(model).items()}
    assert len(kept) == 2 * 14
    for tensor in method.training_state(model).values():
        tensor.add_(1.0)
    method.restore_training_state(model, kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in method.training_state(model).items())


@pytest.mark.parametrize("start", ["pissa", "olora", "corda", "eva"])
def test_gpt2_with_its_turned_weights_starts_as_its_base(start: str) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=128, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    plain = GPT2LMHeadModel(config).eval()
    before = logits(plain)
    method = parse_method(lora(init_lora_weights=start))
    model = method.attach(plain, Supplies(batches=batches))
    assert close(logits(model), before) < 1e-5
    if start == "pissa":
        layer = layer_of(model, "transformer.h.0.mlp.c_fc")
        u, s, vh = torch.linalg.svd(layer.get_base_layer().weight.T)
        a, b = start_of(model, "transformer.h.0.mlp.c_fc")
        assert close(8.0 * b @ a, u[:, :4] @ torch.diag(s[:4]) @ vh[:4]) < 1e-5


# --- LoftQ --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", [NF4, FP4, INT8], ids=lambda quantization: quantization.name)
def test_loftq_starts_at_the_best_of_its_rank_of_what_quantisation_lost(
    base: BaseModel, quantization: Quantization
) -> None:
    method = parse_method(lora(init_lora_weights="loftq", lora_alpha=12))
    model = method.attach(load_base(base, quantization=quantization))
    whole = load_base(base).get_submodule(QUERY).weight
    lost = whole - weight_of(layer_of(model).get_base_layer()).float()
    a, b = start_of(model)
    left = torch.linalg.svdvals(lost)[4:].square().sum().sqrt()
    assert lost.norm() > 1.05 * left
    torch.testing.assert_close((lost - 3.0 * b @ a).norm(), left, rtol=1e-4, atol=0)


def test_loftq_turns_the_weights_of_gpt2_as_the_quantisation_did(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=128, n_embd=32, n_layer=1, n_head=2, n_positions=16, initializer_range=0.2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    held = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=_quantization_config(NF4, "cpu"))
    model = parse_method(lora(init_lora_weights="loftq", lora_alpha=4)).attach(held)
    plain = GPT2LMHeadModel.from_pretrained(tmp_path)
    for name in ("transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_fc"):
        whole = plain.get_submodule(name).weight.T
        held_weight = weight_of(layer_of(model, name).get_base_layer())
        a, b = start_of(model, name)
        assert (whole - held_weight - b @ a).norm() < 0.95 * (whole - held_weight).norm()


def test_doras_magnitudes_are_those_of_the_weights_that_loftq_makes_good(base: BaseModel) -> None:
    method = parse_method(lora(init_lora_weights="loftq", use_dora=True))
    layer = layer_of(method.attach(load_base(base, quantization=NF4)))
    whole = weight_of(layer.get_base_layer()) + layer.scaling["default"] * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, whole.norm(dim=1))


def test_loftq_needs_a_quantised_base_and_is_never_merged_into_the_float_one(base: BaseModel) -> None:
    method = parse_method(lora(init_lora_weights="loftq"))
    with pytest.raises(ConfigError, match=r"this base is in floats\. Take \{kind: qlora\}"):
        method.check(base.facts, PLAIN)
    method.check(base.facts, PLAIN.model_copy(update={"quantization": NF4}))
    assert "the float base has lost nothing" in method.unmergeable()
    assert parse_method(lora()).unmergeable() == ""


# --- LoRA+ and refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [True, "pissa"])
def test_lora_plus_scales_the_rate_of_b_alone(base: BaseModel, start: Any) -> None:
    method, model = attached(lora(loraplus_lr_ratio=16, init_lora_weights=start, use_dora=start is True), base)
    scales = {name: method.learning_rate_scale(name) for name, part in model.named_parameters() if part.requires_grad}
    assert {scale for name, scale in scales.items() if ".lora_B." in name} == {16.0}
    assert {scale for name, scale in scales.items() if ".lora_B." not in name} == {1.0}
    assert parse_method(lora()).learning_rate_scale("x.lora_B.default.weight") == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_lora_weights": "pizza"}, "init_lora_weights"),
        ({"init_lora_weights": "pissa_niter_0"}, "init_lora_weights"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "take init_lora_weights: eva"),
        ({"init_lora_weights": "corda", "use_dora": True}, "takes a part out"),
        ({"init_lora_weights": "eva", "init_from": "runs/1"}, "Remove one"),
        ({"init_lora_weights": "orthogonal", "r": 5}, "needs an even r"),
        ({"rho": 0.5}, "rho"),
        ({"rho": 2.0, "init_lora_weights": "corda"}, "eva only"),
        ({"init_rows": 8}, "eva and corda"),
        ({"loraplus_lr_ratio": 0.5}, "loraplus_lr_ratio"),
    ],
)
def test_settings_that_cannot_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_method(lora(**settings))
    assert caught.value.exit_code == 10


def test_a_start_from_the_weights_needs_them_whole_and_in_floats() -> None:
    for start in TAKES_OUT:
        method = parse_method(lora(**start))
        assert "quantised anew" in method.refuses_quantization(NF4)
        assert "quantised anew" in method.refuses_quantization(INT8)
        assert "needs whole weights" in method.refuses_engine("zero3")
    for start in ("eva", "loftq"):
        method = parse_method(lora(init_lora_weights=start))
        assert method.refuses_quantization(NF4) == ""
        assert [bool(method.refuses_engine(engine)) for engine in ("ddp", "zero2", "fsdp2")] == [False, False, True]
    assert "take nf4" in parse_method(lora(use_dora=True)).refuses_quantization(INT8)
    assert parse_method(lora()).refuses_engine("zero3") == ""


def test_a_start_from_the_data_says_what_is_missing(base: BaseModel) -> None:
    for start in ("eva", "corda"):
        with pytest.raises(ConfigError, match="no training row"):
            parse_method(lora(init_lora_weights=start)).attach(load_base(base))
    with pytest.raises(ConfigError, match=r"11 answer tokens in 1 rows for r: 16\. Raise init_rows"):
        attached(lora(init_lora_weights="eva", init_rows=1, r=16), base)
