"""What a cell learns, counts and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn

from tasks.artifacts import Artifact
from tasks.data.collate import Collator
from tasks.foundation.errors import ConfigError, ModelError
from tasks.models.loading import load_base
from tasks.models.values import BaseModel
from tasks.training import identity
from tasks.training.audit import checksums, verdict
from tasks.training.order import row_order
from tasks.training.recording import read_metrics
from tasks.training.session import build_model, read_rows
from tasks.training.settings import TrainingSettings
from tests.training.worlds import LORA, QUICK, loss_series, request_in, toy_cell, trained, write_tokens

FULL = {"kind": "full", "learning_rate": 1e-3}
RISING = QUICK.model_copy(update={"lr_scheduler_type": "constant", "warmup_ratio": 0.0})
"""With a rate that is far too high the loss is lowest early."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "output").rglob("*.safetensors")))


@pytest.mark.parametrize("micro", [2, 1])
def test_k_micro_batches_of_b_train_like_one_batch_of_kb_also_in_the_last_partial_window(
    base: BaseModel, tmp_path: Path, micro: int
) -> None:
    tokens = write_tokens(tmp_path / "tokens", rows=13)  # 4 + 4 + 4 + 1: the last window holds one row
    whole = QUICK.model_copy(update={"per_device_train_batch_size": 4})
    split = whole.model_copy(update={"per_device_train_batch_size": micro, "gradient_accumulation_steps": 4 // micro})
    for name, settings in (("whole", whole), ("split", split)):
        trained(request_in(tmp_path / name, toy_cell(base, tokens, FULL, settings)))
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "split")
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-6
    series = [
        loss_series(request_in(tmp_path / name, toy_cell(base, tokens, FULL, whole))) for name in ("whole", "split")
    ]
    assert series[0] == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in series[1]]


def test_the_loss_of_the_toy_falls(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, FULL, QUICK.model_copy(update={"max_steps": 30})))
    trained(request)
    losses = [loss for _, loss in loss_series(request)]
    assert losses[-1] < losses[0] - 1


def test_the_reported_eval_loss_is_the_mean_over_all_answer_tokens(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, FULL))
    result = trained(request)
    model = load_base(base.model_copy(update={"path": request.output / "model"}))
    total, count = 0.0, 0
    for row in Dataset.from_file(str(tokens.path / "eval.arrow")):
        batch = Collator(0)([row])
        logits = model(input_ids=batch["input_ids"]).logits[0, :-1]
        labels = batch["labels"][0, 1:]
        total += nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    assert result.eval_loss == pytest.approx(total / count, rel=1e-5)


def test_tokens_parameters_and_bytes_are_counted(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    one_epoch = QUICK.model_copy(update={"max_steps": None, "num_train_epochs": 1.0})
    request = request_in(tmp_path, toy_cell(base, tokens, LORA, one_epoch))
    result = trained(request)
    adapter = request.output / "adapter" / "adapter_model.safetensors"
    assert result.train_tokens == sum(Dataset.from_file(str(tokens.path / "train.arrow"))["length"])
    assert result.weights_bytes == adapter.stat().st_size
    assert result.trainable_parameters == sum(tensor.numel() for tensor in load_file(adapter).values())
    assert result.total_parameters == base.facts.parameters + result.trainable_parameters
    assert result.steps == 8


def test_gradient_checkpointing_changes_memory_not_the_weights(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    for name, on in (("without", False), ("with", True)):
        settings = QUICK.model_copy(update={"gradient_checkpointing": on})
        trained(request_in(tmp_path / name, toy_cell(base, tokens, LORA, settings)))
    one, other = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        {"num_train_epochs": 0.5, "max_steps": None},
        {"per_device_train_batch_size": 2},
        {"lr_scheduler_type": "constant"},
        {"warmup_ratio": 0.5},
        {"weight_decay": 0.5},
        {"max_grad_norm": 0.01},
        {"optim": "sgd"},
        {"precision": "bf16"},
        {"group_by_length": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_of_training_changes_the_weights(
    base: BaseModel, tokens: Artifact, tmp_path: Path, change: dict
) -> None:
    plain = trained(request_in(tmp_path / "plain", toy_cell(base, tokens, FULL)))
    settings = TrainingSettings.model_validate(QUICK.model_dump() | change)
    changed = trained(request_in(tmp_path / "changed", toy_cell(base, tokens, FULL, settings)))
    assert changed.weights_digest != plain.weights_digest


def test_a_methods_own_rate_decay_and_steps_win(base: BaseModel, tokens: Artifact) -> None:
    cell = toy_cell(base, tokens, LORA | {"weight_decay": 0.3, "max_steps": 5})
    assert (cell.method["learning_rate"], cell.method["weight_decay"], cell.training.max_steps) == (1e-2, 0.3, 5)
    general = QUICK.model_copy(update={"learning_rate": 3e-4, "weight_decay": 0.1})
    plain = toy_cell(base, tokens, {"kind": "lora"}, general)
    assert (plain.method["learning_rate"], plain.method["weight_decay"], plain.training.max_steps) == (3e-4, 0.1, 8)


def test_a_setting_that_another_one_overrides_does_not_make_another_cell(base: BaseModel, tokens: Artifact) -> None:
    changed = QUICK.model_copy(update={"learning_rate": 0.5, "num_train_epochs": 9.0})
    assert toy_cell(base, tokens, LORA, changed).fingerprint == toy_cell(base, tokens, LORA).fingerprint
    general = {name: value for name, value in LORA.items() if name != "learning_rate"}
    assert toy_cell(base, tokens, general, changed).fingerprint != toy_cell(base, tokens, general).fingerprint


def test_intervals_of_saving_and_names_do_not_make_another_cell(base: BaseModel, tokens: Artifact) -> None:
    plain = toy_cell(base, tokens, LORA)
    assert toy_cell(base, tokens, LORA | {"name": "mine"}).fingerprint == plain.fingerprint
    assert toy_cell(base, tokens, LORA, QUICK.model_copy(update={"save_steps": 4})).fingerprint == plain.fingerprint
    assert toy_cell(base, tokens, LORA | {"r": 8}).fingerprint != plain.fingerprint
    assert toy_cell(base, tokens.model_copy(update={"digest": "other"}), LORA).fingerprint != plain.fingerprint
    assert toy_cell(base.model_copy(update={"digest": "other"}), tokens, LORA).fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    "module",
    [
        "data.collate",
        "methods._lora",
        "methods._targets",
        "models.loading",
        "training.adoption",
        "training.session",
        "training.stopping",
    ],
)
def test_code_that_decides_the_bytes_makes_another_cell(
    base: BaseModel, tokens: Artifact, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    before = toy_cell(base, tokens, LORA).fingerprint
    honest = identity.code_digest
    changed = f"tasks.{module}"
    monkeypatch.setattr(identity, "code_digest", lambda *names: honest(*names) + ("!" if changed in names else ""))
    assert toy_cell(base, tokens, LORA).fingerprint != before


def test_evaluation_runs_every_n_steps_and_the_best_weights_are_kept(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    settings = RISING.model_copy(update={"max_steps": 12, "eval_steps": 2, "keep_best": True, "save_total_limit": 1})
    request = request_in(tmp_path, toy_cell(base, tokens, LORA | {"learning_rate": 0.5}, settings))
    result = trained(request)
    measured = {
        line.step: line.values["train/eval_loss"]
        for line in read_metrics(request.work / "metrics.jsonl")
        if "train/eval_loss" in line.values
    }
    assert sorted(measured) == [2, 4, 6, 8, 10, 12]
    assert result.best_step == min(measured, key=lambda step: measured[step]) < 12
    assert result.eval_loss == measured[result.best_step]


def test_early_stopping_ends_after_patience_evaluations_without_a_better_loss(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    settings = RISING.model_copy(update={"max_steps": 40, "eval_steps": 2, "early_stopping_patience": 2})
    request = request_in(tmp_path, toy_cell(base, tokens, LORA | {"learning_rate": 0.5}, settings))
    result = trained(request)
    losses = [
        line.values["train/eval_loss"]
        for line in read_metrics(request.work / "metrics.jsonl")
        if "train/eval_loss" in line.values
    ]
    assert result.steps < 40
    assert losses.index(min(losses)) == len(losses) - 3


def test_the_order_of_rows_is_a_function_of_seed_and_epoch_and_holds_each_row_once() -> None:
    lengths = [number % 17 for number in range(203)]
    order = row_order(lengths, 8, seed=3, epoch=1)
    assert sorted(order) == list(range(203))
    assert order == row_order(lengths, 8, seed=3, epoch=1)
    assert order != row_order(lengths, 8, seed=3, epoch=2)
    assert order != row_order(lengths, 8, seed=4, epoch=1)


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = [number * 37 % 401 for number in range(400)]

    def padding(group: int) -> int:
        order = row_order(lengths, group, seed=0, epoch=0)
        batches = [order[start : start + 8] for start in range(0, 400, 8)]
        return sum(
            max(lengths[row] for row in batch) * len(batch) - sum(lengths[row] for row in batch) for batch in batches
        )

    assert padding(8) < padding(0) / 5


def test_a_frozen_tensor_that_moves_fails_the_run(base: BaseModel, tokens: Artifact) -> None:
    cell = toy_cell(base, tokens, LORA)
    model = build_model(cell, _method(LORA), read_rows(cell))
    before = checksums(model)
    frozen = next(parameter for parameter in model.parameters() if not parameter.requires_grad)
    with torch.no_grad():
        frozen.view(-1)[0] += 1e-7
    with pytest.raises(ModelError, match="1 frozen tensors changed"):
        verdict(model, before, set())


def test_a_trainable_tensor_that_stays_fails_the_run_unless_its_gradients_were_zero(
    base: BaseModel, tokens: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    cell = toy_cell(base, tokens, LORA)
    model = build_model(cell, _method(LORA), read_rows(cell))
    before = checksums(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with pytest.raises(ModelError, match="did not change in the first steps"):
        verdict(model, before, trainable)
    verdict(model, before, set())
    assert "got only zero gradients" in caplog.text


def test_a_checksum_sees_two_values_that_change_places() -> None:
    linear = nn.Linear(2, 1, bias=False)
    before = checksums(linear)
    with torch.no_grad():
        linear.weight.copy_(linear.weight.flip(1))
    assert checksums(linear) != before


def test_logging_must_divide_saving() -> None:
    with pytest.raises(ValueError, match="logging_steps: 3 must divide save_steps"):
        TrainingSettings(logging_steps=3, save_steps=10)


def _method(settings: dict):
    from tasks.methods import parse_method

    return parse_method(settings)


def test_a_method_that_cannot_work_is_refused_when_its_cell_is_planned(base: BaseModel, tokens: Artifact) -> None:
    settings = QUICK.model_copy(update={"gradient_checkpointing": True})
    with pytest.raises(ConfigError, match="gradient"):
        toy_cell(base, tokens, {"kind": "prefix_tuning"}, settings)
