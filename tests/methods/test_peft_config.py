"""Every type that PEFT registers trains through `peft_config`, or says why not."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from transformers import AutoModelForCausalLM

from tasks.foundation.errors import ConfigError
from tasks.methods import INIT_FROM, Method, Source, Supplies, parse_method
from tasks.methods._peft_any.fields import COMMON, FIELDS
from tasks.methods._peft_any.types import REFUSED, TRAITS
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tasks.models.skeleton import skeleton
from tasks.models.values import Quantization
from tasks.training.shards import gather
from tests.methods.cases import attached, logits, save
from tests.methods.peft_types import CONFIGS, RATES, greedy, relative_difference, settings, taught

ALL = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
every_type = pytest.mark.parametrize("kind", sorted(CONFIGS))
CLOSE = 1e-6


def test_every_type_of_peft_is_run_or_refused_with_a_reason() -> None:
    assert sorted(CONFIGS.keys() | REFUSED.keys()) == ALL
    assert sorted(TRAITS) == sorted(CONFIGS)
    assert len(ALL) == 45


def test_the_table_of_fields_is_that_of_the_installed_peft() -> None:
    theirs = {
        kind.value: {field.name for field in dataclasses.fields(config) if field.init}
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    assert {kind: set(fields | COMMON) for kind, fields in FIELDS.items()} == theirs


@every_type
def test_it_learns_by_what_it_trains_alone_and_comes_back_the_same(kind: str, base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(settings(kind), base)
    before = {name: (part.requires_grad, part.detach().clone()) for name, part in model.named_parameters()}
    losses = taught(method, model, RATES.get(kind, 2e-2))
    moved = {name for name, part in model.named_parameters() if not torch.equal(part, before[name][1])}
    trained = {name for name, (trainable, _) in before.items() if trainable}
    assert trained
    assert moved <= trained
    assert len(moved) > 0.7 * len(trained)  # the last block of SHADOW has no successor to be corrected
    assert min(losses[-3:]) < losses[0] - 0.02

    save(method, model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert str(base.path) not in (tmp_path / "adapter_config.json").read_text()
    loaded = method.load(load_base(base), tmp_path)
    assert not any(part.requires_grad for part in loaded.parameters())
    assert relative_difference(logits(loaded), logits(model)) <= CLOSE
    if kind not in ("MULTITASK_PROMPT_TUNING", "POLY"):  # these ask for tasks while they train
        assert greedy(loaded) == greedy(model)


def loaded_and_saved(kind: str, base: BaseModel, folder: Path, **more: Any) -> tuple[Method, nn.Module]:
    """Trained for a few steps, and saved."""
    made = settings(kind)
    method, model = attached(made | {"config": made["config"] | more}, base)
    taught(method, model, RATES.get(kind, 2e-2), steps=4)
    save(method, model, folder)
    return method, model


@every_type
def test_what_is_saved_is_what_was_handed_over_whatever_the_model_holds_by_now(
    kind: str, base: BaseModel, tmp_path: Path
) -> None:
    """The weights of the best step are saved when training has gone on."""
    method, model = attached(settings(kind), base)
    taught(method, model, RATES.get(kind, 2e-2), steps=4)
    best, expected = gather(model, frozen=False), logits(model)
    for part in model.parameters():
        if part.requires_grad:
            part.data.mul_(1.5).add_(0.1)
    method.save(model, tmp_path, best)
    assert relative_difference(logits(method.load(load_base(base), tmp_path)), expected) <= CLOSE


BECOMES = {"POLY": "{kind: lora, r: 4, lora_alpha: 1}", "MULTITASK_PROMPT_TUNING": "{kind: prompt_tuning, num_virt"}


@every_type
def test_it_goes_on_as_the_function_that_it_was_or_says_what_does(kind: str, base: BaseModel, tmp_path: Path) -> None:
    method, model = loaded_and_saved(kind, base, tmp_path)
    source = Source(reference="runs/1", path=tmp_path, digest="d", holds="adapter", base_digest=base.digest)
    fresh = attached(settings(kind), base, seed=3)[1]
    if way_out := BECOMES.get(kind, "prompt_tuning after p_tuning" if kind == "P_TUNING" else ""):
        with pytest.raises(ConfigError, match=re.escape(way_out)):
            method.start_from(fresh, source)
        with pytest.raises(ConfigError, match=re.escape(way_out)):
            looked_at_early(method, source, base)
        return
    looked_at_early(method, source, base)
    method.start_from(fresh, source)
    assert relative_difference(logits(fresh), logits(model)) <= 1e-6
    assert relative_difference(logits(attached(settings(kind), base, seed=3)[1]), logits(model)) > 1e-4


def looked_at_early(method: Method, source: Source, base: BaseModel) -> None:
    """What planning does, without a weight of the base."""
    supplies = Supplies({INIT_FROM: source}, base=base)
    method.check_modules(skeleton(base.path), supplies)
    method.rehearse_start(skeleton(base.path), supplies)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("FOURIERFT", {"scaling": 1.0}),
        ("FOURIERFT", {"random_loc_seed": 1}),
        ("PEANUT", {"act_fn": "tanh"}),
        ("HRA", {"apply_GS": True}),
        ("LORA", {"use_rslora": True}),
        ("LORA", {"lora_alpha": 16}),
        ("TRAINABLE_TOKENS", {"token_indices": [5, 6, 8]}),
        ("VERA", {"projection_prng_key": 7}),
    ],
)
def test_settings_under_which_the_same_tensors_are_another_function_are_refused(
    kind: str, other: dict[str, Any], base: BaseModel, tmp_path: Path
) -> None:
    loaded_and_saved(kind, base, tmp_path)
    source = Source(reference="runs/1", path=tmp_path, digest="d", holds="adapter", base_digest=base.digest)
    made = settings(kind)
    method, model = attached(made | {"config": made["config"] | other}, base)
    with pytest.raises(
        ConfigError, match=f"the earlier one has {next(iter(other))} .*Set {next(iter(other))}: "
    ) as late:
        method.start_from(model, source)
    with pytest.raises(ConfigError) as early:
        looked_at_early(method, source, base)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("LORA", {"lora_dropout": 0.3, "init_lora_weights": "gaussian"}),
        ("ADALORA", {"target_r": 2, "total_step": 40}),
        ("SHADOW", {"auxiliary_loss_weight": 0.5}),
    ],
)
def test_settings_of_the_training_alone_may_change(
    kind: str, other: dict[str, Any], base: BaseModel, tmp_path: Path
) -> None:
    _, ended = loaded_and_saved(kind, base, tmp_path)
    source = Source(reference="runs/1", path=tmp_path, digest="d", holds="adapter", base_digest=base.digest)
    made = settings(kind)
    method, model = attached(made | {"config": made["config"] | other}, base)
    method.start_from(model, source)
    assert relative_difference(logits(model), logits(ended)) <= CLOSE


@every_type
def test_its_rate_falls_with_the_size_of_the_model(kind: str, base: BaseModel) -> None:
    facts = [base.facts.model_copy(update={"parameters": count}) for count in (10**5, 3 * 10**7, 10**9)]
    rates = [parse_method(settings(kind)).default_learning_rate(each) for each in facts]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[2]) == (TRAITS[kind].small, TRAITS[kind].large)


@every_type
def test_the_same_seed_saves_the_same_bytes(kind: str, base: BaseModel, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        method, model = attached(settings(kind), base, seed=5)
        taught(method, model, RATES.get(kind, 2e-2), steps=2)
        save(method, model, tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


MERGED = [kind for kind in sorted(CONFIGS) if not TRAITS[kind].unmergeable]


@pytest.mark.parametrize("kind", MERGED)
def test_the_merged_model_is_the_adapted_one(kind: str, base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    method, model = loaded_and_saved(kind, base, tmp_path / "adapter")
    assert method.unmergeable() == ""
    shutil.copytree(base.path, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    method.merge_weights(base.path, tmp_path / "adapter", tmp_path / "model", 100_000)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert relative_difference(logits(merged), logits(model)) <= 1e-5
    assert relative_difference(logits(merged), logits(load_base(base))) > 1e-3


VARIANTS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "velora": {"velora_config": {"num_groups": 8}},
    "mica": {"init_lora_weights": "mica"},
    "monteclora": {"monteclora_config": {"num_samples": 2}},
    "bdlora": {"target_modules": ["up_proj"], "use_bdlora": {"target_modules_bd_b": ["up_proj"], "nblocks": 2}},
    "ranks": {"rank_pattern": {"q_proj": 2}, "use_rslora": True},
    "kasa": {"kasa_config": {}},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "norm": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": [5, 6]},
}


@pytest.mark.parametrize("more", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_of_lora_comes_back_and_merges_unless_it_says_why_not(
    more: dict[str, Any], base: BaseModel, tmp_path: Path
) -> None:
    (tmp_path / "adapter").mkdir()
    method, model = loaded_and_saved("LORA", base, tmp_path / "adapter", **more)
    assert relative_difference(logits(method.load(load_base(base), tmp_path / "adapter")), logits(model)) <= CLOSE
    if not method.unmergeable():
        shutil.copytree(base.path, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
        method.merge_weights(base.path, tmp_path / "adapter", tmp_path / "model", 10**9)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert relative_difference(logits(merged), logits(model)) <= 1e-5


def test_what_cannot_merge_says_why() -> None:
    for kind in CONFIGS.keys() - set(MERGED):
        assert parse_method(settings(kind)).unmergeable().startswith(f"{kind}: ")
    for more, reason in (
        ({"bias": "all"}, "biases of the base"),
        ({"kasa_config": {}}, "KaSA changes the base"),
        ({"lora_bias": True}, "PEFT merges them into biases only"),
        ({"modules_to_save": ["norm"]}, "copies of whole modules"),
        ({"init_lora_weights": "pissa"}, "kind: lora, init_lora_weights: pissa"),
    ):
        config = {"peft_type": "LORA", **more}
        assert reason in parse_method({"kind": "peft_config", "config": config}).unmergeable()


QUANTIZED = [kind for kind in sorted(CONFIGS) if TRAITS[kind].quantized]


@pytest.mark.parametrize(
    ("kind", "bits"),
    [(kind, bits) for kind in QUANTIZED for bits in (4, 8) if bits == 4 or not TRAITS[kind].prompt],
)
def test_it_trains_beside_a_quantised_base_as_beside_the_same_numbers_in_floats(
    kind: str, bits: Any, base: BaseModel, tmp_path: Path
) -> None:
    quantization = Quantization(bits=bits)
    method = parse_method(settings(kind))
    assert method.refuses_quantization(quantization) == ""
    torch.manual_seed(0)
    model = method.attach(load_base(base, quantization=quantization)).train()
    untrained = logits(model)
    taught(method, model.train(), RATES.get(kind, 2e-2), steps=3)
    save(method, model, tmp_path)
    again = method.load(load_base(base, quantization=quantization), tmp_path)
    assert relative_difference(logits(again), logits(model)) <= CLOSE
    assert relative_difference(logits(again), untrained) > 1e-4

    same_numbers = dequantized(load_base(base, quantization=quantization), load_base(base))
    floats = method.load(same_numbers, tmp_path)
    tolerance = 1e-4 if bits == 4 else 0.1  # int8 rounds what a layer reads as well
    assert relative_difference(logits(floats), logits(again)) <= tolerance


def dequantized(quantized: nn.Module, floats: nn.Module) -> nn.Module:
    """The float model with the numbers that the quantised one stands for."""
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in quantized.named_modules():
        weight = getattr(layer, "weight", None)
        if type(layer).__name__ == "Linear4bit":
            floats.get_submodule(name).weight.data = dequantize_4bit(weight.data, weight.quant_state).float()
        elif type(layer).__name__ == "Linear8bitLt":
            scale = weight.SCB if weight.SCB is not None else layer.state.SCB
            floats.get_submodule(name).weight.data = weight.data.float() * scale[:, None] / 127
    return floats


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"use_dora": True}, [False, True]),
        ({"init_lora_weights": "orthogonal"}, [True, True]),
        ({"init_lora_weights": "OLoRA"}, [True, True]),
        ({"init_lora_weights": "Gaussian"}, [False, False]),
    ],
)
def test_settings_of_lora_refuse_a_quantised_base_as_the_kind_lora_does(
    config: dict[str, Any], refused: list[bool]
) -> None:
    bases = (Quantization(bits=4), Quantization(bits=8))
    made = settings("LORA")
    lowered = {name: value.lower() if isinstance(value, str) else value for name, value in config.items()}
    ours = parse_method({"kind": "lora", "r": 4} | lowered)
    theirs = parse_method(made | {"config": made["config"] | config})
    for method in (ours, theirs):
        assert [bool(method.refuses_quantization(base)) for base in bases] == refused


def test_types_that_compute_on_the_weights_refuse_a_quantised_base_with_those_that_do_not() -> None:
    for kind in CONFIGS.keys() - set(QUANTIZED):
        reason = parse_method(settings(kind)).refuses_quantization(Quantization(bits=4))
        assert kind in reason
        assert "LORA" in reason


@every_type
def test_a_16_bit_base_is_met_with_adapters_in_float32_or_refused(
    kind: str, half_base: BaseModel, tmp_path: Path
) -> None:
    if kind == "SHADOW":
        with pytest.raises(ConfigError, match=r"model\.dtype: float32"):
            attached(settings(kind), half_base)
        return
    method, model = attached(settings(kind), half_base)
    assert {part.dtype for part in model.parameters() if part.requires_grad} == {torch.float32}
    losses = taught(method, model, 1e-2, steps=2)
    assert all(torch.isfinite(torch.tensor(losses)))
    save(method, model, tmp_path)
    loaded = method.load(load_base(half_base), tmp_path)
    assert relative_difference(logits(loaded).float(), logits(model).float()) <= 0.05
