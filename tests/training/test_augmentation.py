"""Noisy embeddings (NEFTune): what they change while training, and that they change nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, TrainerControl, TrainerState

from tasks.artifacts import Artifact
from tasks.methods import Candidate
from tasks.methods.loading import load_candidate
from tasks.models.values import BaseModel
from tasks.training.noise import EmbeddingNoise, token_embeddings
from tasks.training.values import TrainRequest
from tests.models.tiny import token_batch
from tests.training.worlds import LORA, QUICK, killed_after, loss_series, request_in, toy_cell, trained

ALPHA = 5.0
PROMPT = {"kind": "prompt_tuning", "num_virtual_tokens": 4, "learning_rate": 0.1}
METHODS = [LORA | {"lora_dropout": 0.0}, PROMPT]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method["kind"])
NOISY = QUICK.model_copy(update={"neftune_noise_alpha": ALPHA, "max_steps": 4})
STATE: Any = (None, TrainerState(), TrainerControl())


def request_on(base: BaseModel, tokens: Artifact, folder: Path, method: dict[str, Any], **changes: Any) -> TrainRequest:
    return request_in(folder, toy_cell(base, tokens, method, NOISY.model_copy(update=changes)))


@contextmanager
def watching(
    monkeypatch: pytest.MonkeyPatch, seen: Callable[[nn.Module, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Call `seen(table, what the table holds for these tokens, what it gave)` in every forward pass of training."""
    honest = EmbeddingNoise.on_train_begin

    def begin(self: EmbeddingNoise, *arguments: Any, **named: Any) -> None:
        honest(self, *arguments, **named)
        token_embeddings(self._model).register_forward_hook(_look)

    def _look(table: Any, inputs: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
        seen(table, table.weight.detach()[inputs[0]], given.detach())

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingNoise, "on_train_begin", begin)
        yield


@every_method
def test_the_embeddings_move_by_at_most_alpha_over_the_root_of_tokens_times_width_while_training_only(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any]
) -> None:
    shares: dict[bool, list[float]] = {True: [], False: []}

    def seen(table: nn.Module, held: torch.Tensor, given: torch.Tensor) -> None:
        bound = ALPHA / math.sqrt(given.shape[1] * given.shape[2])
        shares[table.training].append(float((given - held).abs().max()) / bound)

    with watching(monkeypatch, seen):
        trained(request_on(base, tokens, tmp_path, method, eval_steps=2))
    assert len(shares[True]) == 4
    assert all(0.9 < share <= 1.0 + 1e-4 for share in shares[True])  # some of hundreds of numbers are near the bound
    assert shares[False] and set(shares[False]) == {0.0}


@every_method
def test_the_noise_decides_the_weights_and_the_same_seed_gives_the_same_bytes(
    base: BaseModel, tokens: Artifact, tmp_path: Path, method: dict[str, Any]
) -> None:
    digests = [
        trained(request_on(base, tokens, tmp_path / name, method, **changes)).weights_digest
        for name, changes in (("a", {}), ("b", {}), ("more", {"neftune_noise_alpha": 9.0}))
    ]
    without = trained(request_on(base, tokens, tmp_path / "none", method, neftune_noise_alpha=None)).weights_digest
    assert digests[0] == digests[1]
    assert len({*digests, without}) == 3


def test_each_token_of_each_row_has_noise_of_its_own_and_each_step_another(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noises: list[torch.Tensor] = []
    with watching(monkeypatch, lambda table, held, given: noises.append(given - held) if table.training else None):
        trained(request_on(base, tokens, tmp_path, METHODS[0]))
    first = noises[0]
    assert len({tuple(row.flatten().tolist()) for row in first}) == first.shape[0]
    assert len({tuple(token.tolist()) for token in first[0]}) == first.shape[1]
    assert len({float(noise.abs().sum()) for noise in noises}) == len(noises)


@every_method
def test_a_saved_result_is_loaded_and_scored_without_noise(
    base: BaseModel, tokens: Artifact, tmp_path: Path, method: dict[str, Any]
) -> None:
    request = request_on(base, tokens, tmp_path, method)
    result = trained(request)
    candidate = Candidate(
        label="x", base=base, method=request.cell.method, weights=request.output / "adapter", holds="adapter"
    )
    model = load_candidate(candidate)
    ids = token_batch()
    with torch.no_grad():
        one, two = (model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for _ in range(2))
    assert torch.equal(one, two)
    assert result.eval_loss is not None


def test_when_training_has_ended_the_table_gives_what_it_holds() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)).train()
    noise = EmbeddingNoise(ALPHA, model)
    table, ids = token_embeddings(model), torch.tensor([[1, 2, 3]])
    noise.on_train_begin(*STATE)
    assert not torch.equal(table(ids), model.transformer.wte.weight[ids])
    noise.on_train_end(*STATE)
    assert torch.equal(table(ids), model.transformer.wte.weight[ids])


def test_soft_prompts_on_a_model_that_keeps_its_table_elsewhere_train_with_noise_too() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    soft = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")).train()
    ids = torch.tensor([[1, 2, 3]])

    def logits(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        found: torch.Tensor = soft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return found

    for part in soft.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    EmbeddingNoise(ALPHA, soft).on_train_begin(*STATE)
    assert not torch.equal(logits(0), logits(1))
    assert torch.equal(logits(0), logits(0))


@every_method
def test_gradient_checkpointing_computes_again_with_the_same_noise(
    base: BaseModel, tokens: Artifact, tmp_path: Path, method: dict[str, Any]
) -> None:
    weights = []
    for name, on in (("without", False), ("with", True)):
        request = request_on(base, tokens, tmp_path / name, method, gradient_checkpointing=on)
        trained(request)
        weights.append(load_file(request.output / "adapter" / "adapter_model.safetensors"))
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-6


@every_method
def test_a_run_that_is_killed_and_goes_on_repeats_the_noise(
    base: BaseModel, tokens: Artifact, tmp_path: Path, method: dict[str, Any]
) -> None:
    whole = request_on(base, tokens, tmp_path / "whole", method)
    expected = trained(whole)
    broken = request_on(base, tokens, tmp_path / "broken", method)
    killed_after(3, broken)
    assert trained(broken).weights_digest == expected.weights_digest
    assert loss_series(broken) == loss_series(whole)
