"""AdaLoRA: its ranks really move, its budget is met, its penalty is PEFT's, and what is reported is cross-entropy."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, Method, Moment, Window, parse_method
from tasks.methods._loss import IGNORED
from tasks.methods.adalora import orthogonality
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import attached, logits, save
from tests.models.tiny import token_batch

LAYERS = 14
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def adalora(**settings: Any) -> dict[str, Any]:
    return {"kind": "adalora", "init_r": 6, "target_r": 2, "lora_dropout": 0.0} | settings


def batch() -> dict[str, torch.Tensor]:
    ids = token_batch()
    labels = torch.where(torch.arange(ids.shape[1]) < 5, IGNORED, ids)
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


class Run:
    """A method in training, step by step as the trainer takes them."""

    def __init__(self, settings: dict[str, Any], base: BaseModel, total: int) -> None:
        self.method, self.model = attached(settings, base)
        self.total = total
        trained = [part for part in self.model.parameters() if part.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
        self.left: list[int] = []
        """After each step: lambdas that are not 0."""

    def steps(self, first: int, last: int, skipped: Collection[int] = ()) -> Run:
        """`skipped`: steps that overflow, which the scaler of fp16 leaves out but for the callbacks."""
        for step in range(first, last + 1):
            moment = Moment(step, self.total, seed=0)
            self.method.before_step(self.model, moment)
            loss = self.method.training_loss(self.model, batch(), Window(14, 1))
            assert loss is not None
            loss.total.backward()
            if step in skipped:
                for part in self.optimizer.param_groups[0]["params"]:
                    part.grad.fill_(torch.inf)
            else:
                self.optimizer.step()
            self.method.after_optimizer_step(self.model, moment)
            self.optimizer.zero_grad()
            self.left.append(sum(int((part != 0).sum()) for part in lambdas(self.model).values()))
        return self


def lambdas(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: part.detach() for name, part in model.named_parameters() if ".lora_E." in name}


def saved(method: Method, model: nn.Module, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    save(method, model, folder)
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


def test_the_budget_falls_from_the_first_rank_to_the_last_and_the_ranks_differ(base: BaseModel) -> None:
    run = Run(adalora(), base, total=20).steps(1, 20)
    assert run.left[:2] == [6 * LAYERS] * 2
    assert run.left == sorted(run.left, reverse=True)
    assert run.left[13:] == [2 * LAYERS] * 7
    assert len(set(run.left[2:14])) > 6
    assert len({int((part != 0).sum()) for part in lambdas(run.model).values()}) > 1


@pytest.mark.parametrize("kind", ["own", "peft_config"])
@pytest.mark.parametrize("skipped", [{1, 2, 3, 4}, {9}, {14, 15}, {20}], ids=str)
def test_steps_that_fp16_skips_weigh_nothing_and_the_budget_is_met_all_the_same(
    base: BaseModel, skipped: set[int], kind: str
) -> None:
    config = adalora(peft_type="ADALORA", total_step=20, tinit=2, tfinal=6, target_modules="all-linear")
    del config["kind"]
    settings = adalora() if kind == "own" else {"kind": "peft_config", "config": config}
    run = Run(settings, base, total=20).steps(1, 20, skipped)
    assert run.left[-1] == 2 * LAYERS
    assert len(set(run.left)) > 6  # lambdas are 0 until the first step that counts, then fewer and fewer


def test_the_phases_are_shares_or_steps_of_the_real_run(base: BaseModel) -> None:
    shares, steps = parse_method(adalora()), parse_method(adalora(tinit=4, tfinal=5))
    assert shares.schedule(200) == (20, 60, 200)
    assert steps.schedule(200) == (4, 5, 200)
    run = Run(adalora(tinit=4, tfinal=5), base, total=12).steps(1, 12)
    assert run.left[:4] == [6 * LAYERS] * 4
    assert run.left[4] < 6 * LAYERS
    assert run.left[6:] == [2 * LAYERS] * 6


def test_ranks_are_allotted_every_delta_t_steps(base: BaseModel) -> None:
    run = Run(adalora(tinit=0, tfinal=2, deltaT=4), base, total=12).steps(1, 9)
    allotted = [
        step for step, (before, after) in enumerate(zip(run.left, run.left[1:], strict=False), 2) if after < before
    ]
    assert allotted == [4, 8]


@pytest.mark.parametrize(("settings", "total", "least"), [({}, 1, 3), ({"tinit": 5, "tfinal": 5}, 10, 11)])
def test_a_run_too_short_for_its_phases_is_refused_with_the_numbers(
    base: BaseModel, settings: dict[str, Any], total: int, least: int
) -> None:
    method, model = attached(adalora(**settings), base)
    with pytest.raises(ConfigError, match=rf"has {total} optimiser steps.*at least {least} steps"):
        method.before_step(model, Moment(1, total, 0))
    parse_method(adalora(**settings)).schedule(least)


def test_smoothing_weights_and_targets_reach_peft(base: BaseModel) -> None:
    settings = adalora(beta1=0.5, beta2=0.6, orth_reg_weight=0.1, lora_alpha=10, target_modules=["q_proj"])
    _, model = attached(settings | {"lora_dropout": 0.25, "layers_to_transform": [1]}, base)
    allocator = model.base_model.rankallocator
    assert (allocator.beta1, allocator.beta2) == (0.5, 0.6)
    assert list(lambdas(model)) == [f"{QUERY.replace('.0.', '.1.')}.lora_E.default"]
    layer = model.get_submodule(QUERY.replace(".0.", ".1."))
    assert (layer.scaling["default"], layer.lora_dropout["default"].p, float(layer.ranknum["default"])) == (10, 0.25, 6)


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_is_pefts_and_what_is_reported_is_cross_entropy(base: BaseModel) -> None:
    method, model = attached(adalora(orth_reg_weight=0.7), base)
    config = AdaLoraConfig(
        init_r=6, target_r=2, lora_alpha=32, total_step=9, orth_reg_weight=0.7, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = get_peft_model(load_base(base), config).train()
    ours = method.training_loss(model, batch(), Window(14, 1))
    assert ours is not None
    torch.testing.assert_close(ours.total, theirs(**batch()).loss)
    with torch.no_grad():
        plain = load_base(base)(**batch()).loss  # lambda starts at 0, so the adapter is the base
    torch.testing.assert_close(ours.cross_entropy.detach(), plain)
    assert ours.total - ours.cross_entropy > 0.5


def test_the_penalty_is_the_mean_distance_of_p_and_q_from_orthogonal(base: BaseModel) -> None:
    _, model = attached(adalora(), base)
    distances = []
    for name, part in model.named_parameters():
        if ".lora_A." in name:
            distances.append(((part @ part.T - torch.eye(6)) ** 2).sum().sqrt())
        if ".lora_B." in name:
            distances.append(((part.T @ part - torch.eye(6)) ** 2).sum().sqrt())
    assert len(distances) == 2 * LAYERS
    torch.testing.assert_close(orthogonality(model), sum(distances) / len(distances))


def test_the_micro_batches_of_a_step_add_up_to_one_batch_with_one_penalty(base: BaseModel) -> None:
    method, model = attached(adalora(), base)
    whole = method.training_loss(model, batch(), Window(14, 1))
    halves = [
        method.training_loss(model, {name: value[row : row + 1] for name, value in batch().items()}, Window(14, 2))
        for row in (0, 1)
    ]
    assert whole is not None
    torch.testing.assert_close(sum(half.total for half in halves if half), whole.total)
    torch.testing.assert_close(sum(half.cross_entropy for half in halves if half), whole.cross_entropy)


# --- what is left -------------------------------------------------------------------------------------------------


def test_pruned_ranks_are_gone_from_the_file_which_peft_loads_as_the_same_function(
    base: BaseModel, tmp_path: Path
) -> None:
    run = Run(adalora(target_r=1), base, total=12).steps(1, 12)
    config, tensors = saved(run.method, run.model, tmp_path)
    ranks = {name: sum(kept) for name, kept in config["rank_pattern"].items()}
    assert sum(ranks.values()) == LAYERS
    assert 0 in ranks.values()  # a layer that nobody needs has none
    for name, rank in ranks.items():
        layer = f"base_model.model.{name.removesuffix('.lora_E')}"
        shapes = [tensors[f"{layer}.lora_{part}"].shape for part in "EAB"]
        assert (shapes[0], shapes[1][0], shapes[2][1]) == ((rank, 1), rank, rank)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), tmp_path)
    loaded = run.method.load(load_base(base), tmp_path)
    for model in (theirs, loaded):
        difference = (logits(model) - logits(run.model)).abs().max() / logits(run.model).abs().max()
        assert float(difference) <= 1e-6
    told = run.method.explain(loaded, ())
    assert told == {f"rank/{name.removesuffix('.lora_E')}": float(rank) for name, rank in ranks.items()}


def test_weights_of_an_earlier_best_step_are_saved_with_the_ranks_that_they_had(
    base: BaseModel, tmp_path: Path
) -> None:
    run = Run(adalora(), base, total=20).steps(1, 6)
    best = {name: part.detach().clone() for name, part in run.model.named_parameters() if part.requires_grad}
    expected = logits(run.model)
    run.model.train()
    run.steps(7, 20)
    run.method.save(run.model, tmp_path, best)
    difference = (logits(run.method.load(load_base(base), tmp_path)) - expected).abs().max() / expected.abs().max()
    assert float(difference) <= 1e-6
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert sum(sum(kept) for kept in pattern.values()) == run.left[5]


@pytest.mark.parametrize("stopped", [1, 5, 9], ids=["before", "while", "after"])
def test_a_run_that_goes_on_allots_the_same_ranks(base: BaseModel, stopped: int) -> None:
    whole = Run(adalora(), base, total=12).steps(1, stopped)
    state = {name: tensor.clone() for name, tensor in whole.method.training_state(whole.model).items()}
    weights = {name: part.detach().clone() for name, part in whole.model.named_parameters()}
    moments = copy.deepcopy(whole.optimizer.state_dict())
    again = Run(adalora(), base, total=12)
    again.model.load_state_dict(weights, strict=False)
    again.optimizer.load_state_dict(moments)
    again.method.restore_training_state(again.model, state)
    again.steps(stopped + 1, 12)
    whole.steps(stopped + 1, 12)
    assert again.left == whole.left[stopped:]
    assert all(
        torch.equal(part, dict(whole.model.named_parameters())[name]) for name, part in again.model.named_parameters()
    )


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_r": 6}, r"nothing to prune from init_r: 6\. Lower target_r, or take \{kind: lora\}"),
        ({"tinit": 1.5}, "neither a share below 1 nor a whole number"),
        ({"beta1": 1.0}, "beta1"),
        ({"orth_reg_weight": -1}, "orth_reg_weight"),
        ({"layers_to_transform": [1], "target_modules": ".*q_proj"}, "does not go with an expression"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method(adalora(**settings))


def test_a_rank_above_the_model_is_refused_by_the_setting_that_says_it(base: BaseModel) -> None:
    plain = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)
    with pytest.raises(ConfigError, match=r"init_r: 65 .*Lower init_r"):
        parse_method(adalora(init_r=65)).check(base.facts, plain)
    with pytest.raises(ConfigError, match=r"init_r: 48 is over the smaller side \(32\)"):
        attached(adalora(init_r=48), base)


def test_engines_without_gradients_after_the_step_are_refused() -> None:
    method = parse_method(adalora())
    assert not method.refuses_engine("ddp")
    assert all(method.refuses_engine(engine) for engine in ("zero0", "zero1", "zero2", "zero3", "fsdp2"))
