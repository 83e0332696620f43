"""BitFit: the base with other biases, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import Conditions, Source, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tasks.models.values import Quantization
from tests.methods.cases import attached, logits, loss, save, train
from tests.models.families import tiny_model, tiny_tokens

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
SHIFT = ".bias_shift.value"


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for part in model.parameters():
        if part.requires_grad:
            part.data = torch.randn(part.shape, generator=generator) * 0.3
    return model.eval()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "bloom", "phi", "qwen2", "glm4"])
def test_it_is_the_base_with_other_biases_and_every_bias_trains(family: str) -> None:
    expected = tiny_model(family)
    biases = {name: part for name, part in expected.named_parameters() if name.endswith(".bias")}
    model = shaken(parse_method({"kind": "bitfit"}).attach(tiny_model(family)))
    shifts = {name.removesuffix(SHIFT): part for name, part in model.named_parameters() if part.requires_grad}
    assert {f"{name}.bias" for name in shifts} == biases.keys()
    assert sum(part.numel() for part in shifts.values()) == sum(part.numel() for part in biases.values())
    with torch.no_grad():
        for name, bias in biases.items():
            bias += shifts[name.removesuffix(".bias")]
        torch.testing.assert_close(model(tiny_tokens()).logits, expected(tiny_tokens()).logits, rtol=1e-4, atol=1e-4)


def test_it_starts_as_the_base_and_moves_as_the_biases_themselves_would() -> None:
    ids = tiny_tokens()
    model = parse_method({"kind": "bitfit"}).attach(tiny_model("gpt2"))
    plain = tiny_model("gpt2")
    assert torch.equal(model(ids).logits, plain(ids).logits)
    for each in (model, plain):
        each(input_ids=ids, labels=ids).loss.backward()
    own = dict(plain.named_parameters())
    for name, part in model.named_parameters():
        if part.requires_grad:
            torch.testing.assert_close(part.grad, own[f"{name.removesuffix(SHIFT)}.bias"].grad)


def test_named_modules_train_alone() -> None:
    model = parse_method({"kind": "bitfit", "modules": ["mlp.c_fc", "transformer.ln_f"]}).attach(tiny_model("gpt2"))
    names = {name.removesuffix(SHIFT) for name, part in model.named_parameters() if part.requires_grad}
    assert names == {"transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc", "transformer.ln_f"}
    with pytest.raises(ConfigError, match=r"'q_proj' matches no module with a bias.*c_attn"):
        parse_method({"kind": "bitfit", "modules": ["q_proj"]}).attach(tiny_model("gpt2"))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "phi3"])
def test_a_model_without_biases_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"this {family} has no biases.*gpt2.*kind: ia3") as caught:
        parse_method({"kind": "bitfit"}).attach(tiny_model(family))
    assert caught.value.exit_code == 10


def test_it_is_refused_before_loading_where_the_files_hold_no_bias(base: BaseModel, biased_base: BaseModel) -> None:
    method = parse_method({"kind": "bitfit"})
    assert base.facts.bias_parameters == 0
    with pytest.raises(ConfigError, match="this llama has no biases"):
        method.check(base.facts, PLAIN)
    assert biased_base.facts.bias_parameters == 2 * (2 * 64 + 2 * 32 + 2 * 128 + 64)
    method.check(biased_base.facts, PLAIN)


def test_a_bias_that_is_added_in_an_unknown_way_is_refused() -> None:
    config = MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, state_size=2)
    with pytest.raises(ConfigError, match=r"conv1d is a Conv1d, of which it is not known.*Name others in modules"):
        parse_method({"kind": "bitfit"}).attach(MambaForCausalLM(config))


@pytest.mark.parametrize("bits", [4, 8])
def test_it_trains_beside_a_quantised_base(biased_base: BaseModel, bits: int, tmp_path: Path) -> None:
    quantization = Quantization.model_validate({"bits": bits})
    method = parse_method({"kind": "bitfit"})
    model = method.attach(load_base(biased_base, quantization=quantization)).train()
    before = float(loss(model).detach())
    train(model, 10)
    assert float(loss(model).detach()) < before
    save(method, model, tmp_path)
    loaded = method.load(load_base(biased_base, quantization=quantization), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model))


def test_the_folder_holds_the_biases_alone(biased_base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({"kind": "bitfit"}, biased_base)
    save(method, model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert all(name.endswith(SHIFT) and part.dim() == 1 for name, part in stored.items())
    assert len(stored) == 2 * 7
    with pytest.raises(IntegrityError, match="does not fit the base"):
        method.load(tiny_model("gpt2"), tmp_path)


def test_training_goes_on_from_an_earlier_result_of_the_same_modules(biased_base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({"kind": "bitfit"}, biased_base)
    train(model)
    save(method, model, tmp_path)
    source = Source(reference="run-1", path=tmp_path, digest="d", holds="adapter", method=method.model_dump())
    fresh, other = attached({"kind": "bitfit"}, biased_base)
    fresh.start_from(other, source)
    assert torch.equal(logits(other), logits(model))
    fewer, few = attached({"kind": "bitfit", "modules": ["q_proj"]}, biased_base)
    with pytest.raises(ConfigError, match=r"run-1 has modules .*, these settings give"):
        fewer.start_from(few, source)


@pytest.mark.parametrize("settings", [{}, {"modules": ["q_proj"]}])
def test_the_merge_replaces_the_biases_and_copies_the_rest(
    biased_base: BaseModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    method, model = attached({"kind": "bitfit", **settings}, biased_base)
    shaken(model)
    (tmp_path / "adapter").mkdir()
    save(method, model, tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    method.merge_weights(biased_base.path, tmp_path / "adapter", tmp_path / "merged", 10**9)
    before = load_file(biased_base.path / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    shifts = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    for name, part in before.items():
        shift = shifts.get(f"{name.removesuffix('.bias')}{SHIFT}") if name.endswith(".bias") else None
        assert torch.equal(after[name], part if shift is None else part + shift)
