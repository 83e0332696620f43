"""What PEFT leaves to the training loop: AdaLoRA's and AdaMSS's budgets, penalties, and their place in checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.methods import Method, Moment, Window
from tasks.models import BaseModel
from tests.methods.cases import attached, save
from tests.methods.peft_types import settings, taught
from tests.models.tiny import token_batch


def test_adalora_moves_its_ranks_and_what_is_saved_has_those_that_are_left(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(settings("ADALORA"), base)
    layers = [part for name, part in model.named_parameters() if "lora_E" in name]
    losses = taught(method, model, 2e-2, steps=20)
    left = [int((part != 0).sum()) for part in layers]
    assert sum(left) == 3 * len(layers)
    assert model.peft_config["default"].total_step == 20
    save(method, model, tmp_path)
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert sorted(map(sum, pattern.values())) == sorted(left)
    assert losses[-1] < losses[0]


def test_penalties_train_and_are_not_reported(base: BaseModel) -> None:
    for kind in ("ADALORA", "SHADOW"):
        method, model = attached(settings(kind), base)
        ids = token_batch()
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        own = method.training_loss(model, inputs, Window(None, 1))
        assert own is not None
        expected = torch.nn.functional.cross_entropy(
            model(input_ids=ids).logits[:, :-1].reshape(-1, 128), ids[:, 1:].reshape(-1)
        )
        assert float(own.cross_entropy) == pytest.approx(float(expected), rel=1e-5)
        assert float(own.total) == pytest.approx(float(model(**inputs).loss), rel=1e-5)
        assert float(own.total) > float(own.cross_entropy) + 0.1
        parts = [method.training_loss(model, inputs, Window(2 * 22, 2)) for _ in range(2)]
        assert sum(float(part.total) for part in parts if part) == pytest.approx(float(own.total), rel=1e-5)


@pytest.mark.parametrize("kind", ["ADALORA", "ADAMSS"])
def test_training_goes_on_from_what_is_kept_as_if_it_had_not_stopped(kind: str, base: BaseModel) -> None:
    made = settings(kind)
    if kind == "ADAMSS":
        asa = {"use_asa": True, "asa_target_subspaces": 3, "init_warmup": 2, "final_warmup": 8, "mask_interval": 2}
        made["config"] |= asa
    method, model = attached(made, base)
    straight = run_steps(method, model, range(1, 13), torch.optim.SGD(trainable(model), lr=0.3))

    method, model = attached(made, base)
    run_steps(method, model, range(1, 8), torch.optim.SGD(trainable(model), lr=0.3))
    kept = {name: part.detach().clone() for name, part in model.named_parameters() if part.requires_grad}
    state = {name: tensor.clone() for name, tensor in method.training_state(model).items()}
    assert state
    method, again = attached(made, base, seed=3)
    assert kept.keys() == {name for name, part in again.named_parameters() if part.requires_grad}
    for name, part in again.named_parameters():
        if name in kept:
            part.data.copy_(kept[name])
    method.restore_training_state(again, state)
    resumed = run_steps(method, again, range(8, 13), torch.optim.SGD(trainable(again), lr=0.3))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [part for part in model.parameters() if part.requires_grad]


def run_steps(method: Method, model: nn.Module, steps: range, optimizer: Any) -> dict[str, torch.Tensor]:
    """Trainable tensors after these steps of 12."""
    ids = token_batch()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    for step in steps:
        moment = Moment(step, 12, 0)
        method.before_step(model, moment)
        own = method.training_loss(model, inputs, Window(None, 1))
        (model(**inputs).loss if own is None else own.total).backward()
        optimizer.step()
        method.after_optimizer_step(model, moment)
        optimizer.zero_grad()
    return {name: part.detach().clone() for name, part in model.named_parameters() if part.requires_grad}


def test_subspaces_of_adamss_fall_asleep_and_stay_as_they_were(base: BaseModel) -> None:
    made = settings("ADAMSS")
    made["config"] |= {"use_asa": True, "asa_target_subspaces": 3, "init_warmup": 2, "final_warmup": 6}
    made["config"]["mask_interval"] = 2
    method, model = attached(made, base)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    early = run_steps(method, model, range(1, 9), optimizer)
    late = run_steps(method, model, range(9, 13), optimizer)
    moved = sum(not torch.equal(early[name], late[name]) for name in early)
    assert 0 < moved <= 2 * 3 < len(early)


@pytest.mark.parametrize("field", ["kasa_config", "monteclora_config"])
def test_what_a_variant_asks_to_be_added_to_the_loss_trains_and_is_not_reported(field: str, base: BaseModel) -> None:
    made = settings("LORA")
    made["config"] |= {field: {}}
    method, model = attached(made, base)
    ids = token_batch()
    own = method.training_loss(model, {"input_ids": ids, "labels": ids}, Window(None, 1))
    assert own is not None
    assert float(own.total.detach()) != float(own.cross_entropy)
