"""Every method under every engine on 1, 2 and 3 ranks: it trains like one rank alone, saves a whole adapter that loads
again, or is refused for the declared reason.

All gangs take the same six rows per step, so one rank without any engine is what the others are held against.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from tasks.artifacts import Artifact
from tasks.data.collate import Collator
from tasks.foundation.errors import ConfigError
from tasks.methods import Candidate, all_methods, parse_method
from tasks.methods.loading import load_candidate
from tasks.methods.lora import Lora
from tasks.models.values import BaseModel
from tasks.training.engines import ENGINES, OPTIMIZER_REFUSES, engine_name, refuse_engine
from tasks.training.settings import TrainingSettings
from tasks.training.trainer import cross_entropy_sum
from tasks.training.values import TrainRequest, TrainResult
from tests.methods.cases import minimal
from tests.models.tiny import tiny_base, write_tiny_llama
from tests.training.layouts import cell_on, layout_of
from tests.training.ranks import trained_by_ranks
from tests.training.worlds import loss_series, request_in, trained

ROWS_PER_STEP = 6
STRATEGIES = ("ddp", "zero0", "zero1", "zero2", "zero3", "zero2-offload", "zero3-offload", "fsdp2")
KINDS = [str(method.model_fields["kind"].default) for method in all_methods() if method.info.holds != "nothing"]
DIAGONAL = list(
    zip(
        KINDS,
        itertools.cycle([*STRATEGIES[4:], *STRATEGIES[:4]]),
        itertools.cycle([2, 3, 2, 2, 2, 1, 2, 2]),
        strict=False,
    )
)
"""One gang per method, the strategies in turn: what `make test` runs."""
EVERY_SIZE = ("full", "freeze", "lora", "qlora", "ia3", "prompt_tuning", "prefix_tuning", "p_tuning")
"""One kind for each way of training and saving that engines know: what PEFT wraps, what is whole, what is quantised,
what hangs before the first block or in a cache. These run with 1, 2 and 3 ranks, the others with 2 and 3 in turn."""
EVERYTHING = [
    (kind, strategy, ranks)
    for row, kind in enumerate(KINDS)
    for column, strategy in enumerate(STRATEGIES)
    for ranks in ((1, 2, 3) if kind in EVERY_SIZE else (2 + (row + column) % 2,))
    if (kind, strategy, ranks) not in DIAGONAL and (strategy, ranks) not in {("fsdp2", 1), ("ddp", 1)}
]

IN_CI = 5
"""Every fifth of them stands for the rest in CI: coprime to the number of strategies, so that all of these are met."""

Reference = Callable[[str], tuple[TrainRequest, TrainResult]]


def settings_of(kind: str) -> dict[str, Any]:
    """Small, and without dropout: each rank would draw its own."""
    lora = {"r": 4, "lora_dropout": 0.0}
    small: dict[str, dict[str, Any]] = {
        "adalora": {"init_r": 6, "target_r": 4, "lora_dropout": 0.0},  # no layer is left without any rank
        "distillation": {"student": {"kind": "lora"} | lora},
        "lora": lora,
        "progressive_shrinking": lora,
        "pruning": {"r": 4},
        "qlora": lora,
    }
    return {**minimal(kind), "learning_rate": 1e-3} | small.get(kind, {})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """With biases, since one of the methods trains nothing else."""
    return tiny_base(write_tiny_llama(tmp_path_factory.mktemp("matrix") / "tiny", biases=True))


def training_on(ranks: int) -> TrainingSettings:
    return TrainingSettings(max_steps=4, per_device_train_batch_size=ROWS_PER_STEP // ranks, save_steps=4)


@pytest.fixture(scope="module")
def alone(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Each method trained on one rank without an engine, once."""
    known: dict[str, tuple[TrainRequest, TrainResult]] = {}

    def train(kind: str) -> tuple[TrainRequest, TrainResult]:
        if kind not in known:
            cell = cell_on(layout_of("ddp", 1), base, tokens, settings_of(kind), training_on(1))
            request = request_in(tmp_path_factory.mktemp(kind), cell)
            known[kind] = (request, trained(request))
        return known[kind]

    return train


@pytest.mark.parametrize(("kind", "strategy", "ranks"), DIAGONAL)
def test_each_method_under_one_engine(
    base: BaseModel, tokens: Artifact, alone: Reference, tmp_path: Path, kind: str, strategy: str, ranks: int
) -> None:
    trains_like_one_rank_or_is_refused(alone, tmp_path, base, tokens, (kind, strategy, ranks))


@pytest.mark.system
@pytest.mark.parametrize(
    ("kind", "strategy", "ranks"),
    [pytest.param(*case, marks=pytest.mark.cross if place % IN_CI else ()) for place, case in enumerate(EVERYTHING)],
)
def test_every_method_under_every_engine(
    base: BaseModel, tokens: Artifact, alone: Reference, tmp_path: Path, kind: str, strategy: str, ranks: int
) -> None:
    trains_like_one_rank_or_is_refused(alone, tmp_path, base, tokens, (kind, strategy, ranks))


def trains_like_one_rank_or_is_refused(
    alone: Reference, folder: Path, base: BaseModel, tokens: Artifact, case: tuple[str, str, int]
) -> None:
    kind, strategy, ranks = case
    layout = layout_of(strategy, ranks)
    refusal = parse_method(settings_of(kind)).info.refuses.get(engine_name(layout))
    if refusal:
        with pytest.raises(ConfigError, match=refusal):
            cell_on(layout, base, tokens, settings_of(kind), training_on(ranks))
        return
    request = request_in(folder, cell_on(layout, base, tokens, settings_of(kind), training_on(ranks)))
    result = trained_by_ranks(request)
    reference, expected = alone(kind)
    series = [(step, pytest.approx(loss, abs=2e-4)) for step, loss in loss_series(reference)]
    assert loss_series(request) == series
    assert result.eval_loss == pytest.approx(expected.eval_loss, abs=2e-4)
    assert (result.trainable_parameters, result.train_tokens) == (expected.trainable_parameters, expected.train_tokens)
    assert shapes(request) == shapes(reference)
    assert eval_loss_of_saved(request, tokens) == pytest.approx(result.eval_loss, abs=2e-4)


def shapes(request: TrainRequest) -> dict[str, torch.Size]:
    """Of what was saved, all of it finite and none of it empty."""
    saved = load_file(next(request.output.rglob("*.safetensors")))
    assert all(tensor.numel() and torch.isfinite(tensor).all() for tensor in saved.values())
    return {name: tensor.shape for name, tensor in saved.items()}


def eval_loss_of_saved(request: TrainRequest, tokens: Artifact) -> float:
    """What evaluation would measure: the base with the saved weights, loaded by the method."""
    cell = request.cell
    holds = parse_method(cell.method).info.holds
    candidate = Candidate(
        label=cell.label, base=cell.base, method=cell.method, weights=request.output / holds, holds=holds
    )
    rows = list(Dataset.from_file(str(tokens.path / "eval.arrow")))
    with torch.no_grad():
        total, count = cross_entropy_sum(load_candidate(candidate), Collator(0)(rows)).tolist()
    return float(total / count)


def test_what_a_method_declares_impossible_is_refused_with_its_reason_before_anything_is_loaded(
    base: BaseModel, tokens: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = Lora.info.model_copy(update={"refuses": {"zero3": "its matrices would be apart"}})
    monkeypatch.setattr(Lora, "info", declared)
    with pytest.raises(ConfigError, match="lora cannot train under zero3: its matrices would be apart") as refused:
        cell_on(layout_of("zero3-offload", 2), base, tokens, settings_of("lora"))
    assert refused.value.allowed == "ddp, zero0, zero1, zero2, fsdp2"
    assert cell_on(layout_of("zero2", 2), base, tokens, settings_of("lora")).layout.zero_stage == 2


@pytest.mark.parametrize(
    ("optim", "engine"), [(optim, engine) for optim, refused in OPTIMIZER_REFUSES.items() for engine in refused]
)
def test_an_optimiser_that_an_engine_would_turn_into_another_one_is_refused(
    base: BaseModel, tokens: Artifact, optim: str, engine: str
) -> None:
    settings = TrainingSettings.model_validate({"optim": optim})
    with pytest.raises(ConfigError, match=f"{optim} cannot train under {engine}"):
        cell_on(layout_of(engine, 2), base, tokens, settings_of("full"), settings)
    refuse_engine(parse_method(settings_of("full")), settings, layout_of("ddp", 2))


def test_one_rank_alone_shares_with_nobody(base: BaseModel, tokens: Artifact) -> None:
    with pytest.raises(ConfigError, match="fsdp2 shares a model among ranks, and there is one"):
        cell_on(layout_of("fsdp2", 1), base, tokens, settings_of("lora"))


def test_precision_is_decided_with_the_device_and_is_part_of_the_cell(base: BaseModel, tokens: Artifact) -> None:
    on_cpu = layout_of("ddp", 1)
    on_gpu = on_cpu.model_copy(update={"device": "cuda"})
    cells = [cell_on(layout, base, tokens, settings_of("lora")) for layout in (on_cpu, on_gpu)]
    assert [cell.training.precision for cell in cells] == ["fp32", "bf16"]
    assert cells[0].fingerprint != cells[1].fingerprint
    with pytest.raises(ConfigError, match="fp16 mixed precision needs an accelerator"):
        cell_on(on_cpu, base, tokens, settings_of("lora"), TrainingSettings(precision="fp16"))


def test_the_documentation_says_what_the_code_does() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    declared = {method.model_fields["kind"].default: method.info.refuses for method in all_methods()}
    rows = {kind: declared[kind] for kind in KINDS} | {
        f"`optim: {optim}`": refused for optim, refused in OPTIMIZER_REFUSES.items()
    }
    for name, refused in rows.items():
        cells = [name, *("no" if engine in refused else "yes" for engine in ENGINES)]
        assert f"| {' | '.join(cells)} |" in text
