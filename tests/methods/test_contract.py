"""What every method promises, tested on every method that is discovered: a new file is tested the moment it exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tasks.foundation.errors import ConfigError
from tasks.methods import Candidate, Conditions, Method, all_methods, parse_method
from tasks.methods._peft import PeftMethod
from tasks.methods.loading import load_candidate
from tasks.models import BaseModel
from tests.methods.cases import (
    Settings,
    attach,
    attached,
    case_name,
    logits,
    loss,
    minimal,
    save,
    train,
    trainable_cases,
    unattached,
    without_dropout,
)

every_case = pytest.mark.parametrize("settings", trainable_cases(), ids=case_name)
every_float_adapter = pytest.mark.parametrize(
    "settings",
    [
        case
        for case in trainable_cases()
        if isinstance(parse_method(case), PeftMethod) and parse_method(case).quantization() is None
    ],
    ids=case_name,
)
every_method = pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.__name__)
CLOSE = 1e-6


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def defaults(method: type[Method]) -> Method:
    return parse_method(minimal(str(method.model_fields["kind"].default)))


@every_case
def test_exactly_the_trainable_parameters_move(settings: Settings, base: BaseModel) -> None:
    method, model = attached(settings, base)
    before = {name: (part.requires_grad, part.detach().clone()) for name, part in model.named_parameters()}
    train(model, steps=8, method=method)  # as many as it takes to draw every depth of an adapter that is drawn
    moved = {name for name, part in model.named_parameters() if not torch.equal(part, before[name][1])}
    assert moved == {name for name, (trainable, _) in before.items() if trainable}
    assert moved


@every_case
def test_an_adapter_leaves_every_weight_of_the_base_frozen(settings: Settings, base: BaseModel) -> None:
    method = parse_method(settings)
    model = unattached(method, base)
    own = list(model.parameters())
    attach(method, model, base)
    assert method.holds == "model" or not any(part.requires_grad for part in own)


@every_case
def test_a_saved_cell_loads_to_the_same_logits_on_a_fresh_base(
    settings: Settings, base: BaseModel, tmp_path: Path
) -> None:
    method, model = attached(settings, base)
    train(model, method=method)
    save(method, model, tmp_path)
    candidate = Candidate(label="x", base=base, method=method.model_dump(), weights=tmp_path, holds=method.holds)
    loaded = load_candidate(candidate)
    assert not loaded.training
    assert not any(part.requires_grad for part in loaded.parameters())
    assert relative_difference(logits(loaded), logits(model)) <= CLOSE
    reloaded = method.load(unattached(method, base), tmp_path)
    assert relative_difference(logits(reloaded), logits(model)) <= CLOSE


@every_case
def test_the_same_seed_saves_the_same_bytes_and_no_path(settings: Settings, base: BaseModel, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        method, model = attached(settings, base, seed=5)
        train(model, method=method)
        save(method, model, folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(path.name for path in folders[1].iterdir())
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)
    assert all(name.endswith((".json", ".safetensors")) for name in names)
    texts = [(folders[0] / name).read_text() for name in names if name.endswith(".json")]
    assert not any(str(base.path) in text or str(tmp_path) in text for text in texts)


@every_float_adapter
def test_any_peft_user_can_load_the_adapter(settings: Settings, base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(settings, base)
    train(model)
    save(method, model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["inference_mode"] is True
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), tmp_path)
    assert relative_difference(logits(theirs), logits(model)) <= CLOSE


@every_case
def test_what_trains_is_float32_on_a_16_bit_base(settings: Settings, half_base: BaseModel) -> None:
    _, model = attached(settings, half_base)
    assert {part.dtype for part in model.parameters() if part.requires_grad} == {torch.float32}


@every_case
def test_gradient_checkpointing_gives_the_same_gradients_or_is_refused(settings: Settings, base: BaseModel) -> None:
    method, model = attached(without_dropout(settings), base)
    if not method.info.gradient_checkpointing:
        with pytest.raises(ConfigError, match=r"training\.gradient_checkpointing: false"):
            method.check(base.facts, Conditions(gradient_checkpointing=True, packing=False, max_seq_length=16))
        return
    gradients = []
    for checkpointed in (False, True):
        model.zero_grad()
        if checkpointed:
            inner = model.get_base_model() if hasattr(model, "get_base_model") else model
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(0)  # dropout draws the same both times
        loss(model).backward()
        gradients.append({name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@every_method
def test_defaults_suit_the_tiny_model_and_every_size(method: type[Method], base: BaseModel) -> None:
    made = defaults(method)
    made.check(base.facts, Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32))
    rates = [
        made.default_learning_rate(base.facts.model_copy(update={"parameters": count}))
        for count in (100_000, 5_000_000, 30_000_000, 100_000_000, 8_000_000_000)
    ]
    assert rates == sorted(rates, reverse=True)
    assert method.info.holds == "nothing" or all(0 < rate < 1 for rate in rates)


@every_method
def test_every_setting_is_documented(method: type[Method]) -> None:
    undocumented = [name for name, field in method.model_fields.items() if not field.description and name != "kind"]
    assert undocumented == []
    assert method.info.trains
    assert method.__doc__


@every_method
def test_settings_survive_the_trip_through_json(method: type[Method]) -> None:
    made = defaults(method)
    assert parse_method(json.loads(made.model_dump_json())) == made


@every_method
@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"weight_decay": -1.0}, {"max_steps": 0}])
def test_the_settings_of_every_method_keep_their_bounds(method: type[Method], wrong: Settings) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        parse_method({**minimal(str(method.model_fields["kind"].default)), **wrong})
