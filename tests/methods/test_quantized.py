"""A base in 4 or 8 bits: what trains beside it, what is refused, and that it is merged into the float base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.foundation.errors import ConfigError
from tasks.launch import Layout
from tasks.merging.merge import write_merged
from tasks.merging.settings import MergeSettings
from tasks.methods import Candidate, Method, Supplies, base_quantization, parse_method, refuse_quantization
from tasks.methods.loading import load_candidate
from tasks.models import BaseModel, Quantization
from tasks.models.loading import load_base
from tasks.training.engines import refuse_engine
from tests.methods.cases import batches, case_name, logits, loss, save, train
from tests.training.worlds import QUICK

NF4, FP4, INT8 = Quantization(bits=4), Quantization(bits=4, quant_type="fp4"), Quantization(bits=8)
BESIDE: list[dict[str, Any]] = [
    {"kind": "lora", "r": 4},
    {"kind": "lora", "r": 4, "init_lora_weights": "eva", "use_rslora": True},
    {"kind": "lora", "r": 4, "init_lora_weights": "loftq"},
    {"kind": "adalora", "init_r": 6, "target_r": 2},
    {"kind": "ia3"},
    {"kind": "prompt_tuning"},
    {"kind": "p_tuning"},
    {"kind": "prefix_tuning"},
]
MERGED = [settings for settings in BESIDE if not parse_method(settings).unmergeable()]
each_kind_of_bits = pytest.mark.parametrize("bits", [NF4, INT8], ids=lambda bits: bits.name)


def held(base: BaseModel, bits: Quantization) -> BaseModel:
    """The base as `model.quantization` has it."""
    return base.model_copy(update={"quantization": bits})


def on(base: BaseModel, settings: dict[str, Any]) -> tuple[Method, torch.nn.Module]:
    """The method on the base as its cell would load it, ready to train."""
    method = parse_method(settings)
    model = load_base(base, quantization=base_quantization(method, base.quantization))
    torch.manual_seed(0)
    return method, method.attach(model, Supplies(batches=batches)).train()


def candidate_of(method: Method, base: BaseModel, folder: Path) -> Candidate:
    return Candidate(label="x", base=base, method=method.model_dump(), weights=folder, holds="adapter")


@each_kind_of_bits
@pytest.mark.parametrize("settings", BESIDE, ids=case_name)
def test_it_learns_beside_a_quantised_base_that_stays_and_reloads_to_the_same_logits(
    base: BaseModel, tmp_path: Path, settings: dict[str, Any], bits: Quantization
) -> None:
    quantised = held(base, bits)
    refuse_quantization(parse_method(settings), bits)
    method, model = on(quantised, settings)
    frozen = {name: part.detach().clone() for name, part in model.named_parameters() if not part.requires_grad}
    before = loss(model).item()
    train(model, steps=8)
    assert loss(model).item() < before - 0.3
    assert all(torch.equal(part, frozen[name]) for name, part in model.named_parameters() if name in frozen)
    save(method, model, tmp_path)
    assert torch.equal(logits(load_candidate(candidate_of(method, quantised, tmp_path))), logits(model))


@each_kind_of_bits
@pytest.mark.parametrize("settings", MERGED[:-3], ids=case_name)
def test_what_trained_beside_a_quantised_base_is_merged_into_the_float_one(
    base: BaseModel, tmp_path: Path, settings: dict[str, Any], bits: Quantization
) -> None:
    quantised = held(base, bits)
    method, model = on(quantised, settings)
    train(model)
    (tmp_path / "adapter").mkdir()
    save(method, model, tmp_path / "adapter")
    candidate = candidate_of(method, quantised, tmp_path / "adapter")
    write_merged(candidate, MergeSettings(), tmp_path / "merged")
    merged = load_base(base.model_copy(update={"path": tmp_path / "merged"}))
    expected = logits(load_candidate(candidate, float_base=True))
    assert float((logits(merged) - expected).abs().max() / expected.abs().max()) <= 1e-5
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


@each_kind_of_bits
def test_nothing_of_the_base_is_cast_up(half_base: BaseModel, bits: Quantization) -> None:
    quantised = held(half_base, bits)
    loaded = {name: part.dtype for name, part in load_base(quantised, quantization=bits).named_parameters()}
    _, model = on(quantised, {"kind": "lora", "r": 4})
    inner = {name.replace(".base_layer", ""): part.dtype for name, part in model.get_base_model().named_parameters()}
    assert {name: inner[name] for name in loaded} == loaded
    assert loaded["model.embed_tokens.weight"] == torch.bfloat16


@pytest.mark.parametrize("kind", ["full", "freeze"])
def test_methods_that_train_the_bases_own_weights_are_refused(kind: str) -> None:
    with pytest.raises(
        ConfigError, match=f"{kind} cannot train on a base in int8.*Remove model.quantization"
    ) as caught:
        refuse_quantization(parse_method({"kind": kind}), INT8)
    assert caught.value.exit_code == 10


def test_two_wishes_for_one_base_must_agree() -> None:
    qlora = parse_method({"kind": "qlora"})
    refuse_quantization(qlora, NF4)
    for other in (INT8, FP4):
        with pytest.raises(ConfigError, match=r"qlora trains on a nf4 base.*Take \{kind: lora\}"):
            refuse_quantization(qlora, other)
    refuse_quantization(parse_method({"kind": "none"}), INT8)


@pytest.mark.parametrize(
    ("settings", "bits", "reason"),
    [
        ({"init_lora_weights": "pissa"}, NF4, "quantised anew"),
        ({"init_lora_weights": "olora"}, INT8, "quantised anew"),
        ({"use_dora": True}, INT8, "loses the scales of 8-bit weights"),
    ],
)
def test_settings_of_lora_that_quantisation_breaks_are_refused_before_anything_is_loaded(
    settings: dict[str, Any], bits: Quantization, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        refuse_quantization(parse_method({"kind": "lora", **settings}), bits)


def test_int8_is_refused_where_ranks_share_the_weights_without_their_scales() -> None:
    lora, fsdp2 = parse_method({"kind": "lora"}), Layout(ranks_per_node=2, engine="fsdp2")
    with pytest.raises(ConfigError, match=r"int8 cannot train under fsdp2.*Set model\.quantization: nf4"):
        refuse_engine(lora, QUICK, fsdp2, INT8)
    refuse_engine(lora, QUICK, fsdp2, NF4)
    refuse_engine(lora, QUICK, Layout(ranks_per_node=2), INT8)
