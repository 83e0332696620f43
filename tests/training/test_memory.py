"""Out of memory: where, with how much, and what to set instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import BatchTooLargeError, ErrorRecord, ResourceError
from tasks.launch.failure import FailedRank, write_failed_rank
from tasks.launch.kills import Kills, kills_so_far
from tasks.launch.layout import Layout
from tasks.models.values import BaseModel
from tasks.training import memory
from tasks.training.memory import (
    MicroBatch,
    computing_on,
    killed_for_memory,
    memory_limit_bytes,
    out_of_memory,
    remedy,
    smaller_micro_batch,
)
from tasks.training.pulse import Phase, Pulse
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainRequest
from tests.training.limits import killed_by_its_own_memory, memory_limited
from tests.training.worlds import LORA, in_child, request_in, toy_cell

CUDA = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79 GiB")


@pytest.fixture
def request_(base: BaseModel, tokens: Artifact, tmp_path: Path) -> TrainRequest:
    return request_in(tmp_path, toy_cell(base, tokens, LORA))


def with_settings(cell: Cell, **changes: Any) -> Cell:
    training = TrainingSettings.model_validate(cell.training.model_dump() | changes)
    return cell.model_copy(update={"training": training})


def in_phase(request: TrainRequest, phase: Phase, step: int = 2) -> None:
    pulse = Pulse(request.work, 0)
    pulse.enter(phase)
    pulse.beat(step)


@pytest.mark.parametrize(
    ("batch", "smaller"),
    [
        ((8, 1), (4, 2)),
        ((4, 2), (2, 4)),
        ((2, 4), (1, 8)),
        ((3, 1), (1, 3)),
        ((6, 1), (3, 2)),
        ((7, 2), (2, 7)),
        ((5, 4), (2, 10)),
        ((1, 8), None),
    ],
)
def test_half_a_micro_batch_keeps_the_global_batch_exactly(batch: tuple[int, int], smaller: Any) -> None:
    settings = TrainingSettings(per_device_train_batch_size=batch[0], gradient_accumulation_steps=batch[1])
    assert smaller_micro_batch(settings) == (MicroBatch(*smaller) if smaller else None)


def test_a_rank_says_step_batch_peak_and_the_override_that_would_fit(request_: TrainRequest) -> None:
    in_phase(request_, "training")
    with pytest.raises(RuntimeError) as caught, computing_on((4, 128), step=3):
        raise CUDA

    error = out_of_memory(caught.value, request_)
    assert type(error) is BatchTooLargeError
    assert error.what.startswith(
        "out of memory at step 3, on a batch of 4 x 128 tokens (CUDA out of memory. Tried to allocate 2.00 GiB.); "
    )
    assert f"bytes, the limit is {memory_limit_bytes():,}" in error.what
    assert "training.per_device_train_batch_size=2 training.gradient_accumulation_steps=2" in error.fix
    assert len(str(error).splitlines()) == 1


def test_a_shortage_beyond_any_batch_is_placed_by_what_the_rank_was_doing(request_: TrainRequest) -> None:
    in_phase(request_, "training")
    assert "at step 3 (MemoryError)" in str(out_of_memory(MemoryError(), request_))
    in_phase(request_, "saving")
    assert "at step 2, while saving (MemoryError)" in str(out_of_memory(MemoryError(), request_))


@pytest.mark.parametrize("phase", ["loading", "evaluating", "saving", "finishing"])
def test_only_training_may_fit_with_a_smaller_micro_batch(request_: TrainRequest, phase: Phase) -> None:
    in_phase(request_, phase)
    error = out_of_memory(MemoryError(), request_)
    assert type(error) is ResourceError
    assert "train_batch_size" not in error.fix


def test_another_error_is_not_touched(request_: TrainRequest) -> None:
    with pytest.raises(ValueError, match="shape") as caught, computing_on((4, 128), step=3):
        raise ValueError("shape")
    assert not hasattr(caught.value, "__notes__")
    assert out_of_memory(caught.value, request_) is None
    assert out_of_memory(OSError(28, "No space left on device"), request_) is None


def test_measures_come_from_the_weakest_on_and_none_that_is_in_force(base: BaseModel, tokens: Artifact) -> None:
    cell = with_settings(toy_cell(base, tokens, LORA), per_device_train_batch_size=2)
    told = []
    for changes in (
        {},
        {"auto_micro_batch": True},
        {"per_device_train_batch_size": 1},
        {"per_device_train_batch_size": 1, "gradient_checkpointing": True},
    ):
        told.append(remedy(with_settings(cell, **changes), "training"))
    batch = "Set training.per_device_train_batch_size=1 training.gradient_accumulation_steps=2 (the same global batch)"
    assert told[:3] == [
        f"{batch}, or training.auto_micro_batch=true",
        batch,
        "Set training.gradient_checkpointing=true",
    ]
    assert told[3] == (
        "Take a stronger measure: a method with a quantised base ({kind: qlora}); shorter rows (data.max_seq_length); "
        "a smaller model"
    )


def test_what_evaluations_need_is_told_by_their_own_batch(base: BaseModel, tokens: Artifact) -> None:
    cell = toy_cell(base, tokens, LORA)
    assert remedy(cell, "evaluating") == "Set training.per_device_eval_batch_size=8"
    assert "stronger" in remedy(with_settings(cell, per_device_eval_batch_size=1), "evaluating")


def test_stronger_measures_depend_on_what_the_cell_has(base: BaseModel, tokens: Artifact) -> None:
    cell = toy_cell(base, tokens, LORA)
    ranks = cell.model_copy(update={"layout": Layout(ranks_per_node=2)})
    cuda = cell.model_copy(update={"layout": Layout(device="cuda")})
    qlora = cell.model_copy(update={"method": {"kind": "qlora", "learning_rate": 1e-3}})
    assert "distributed.strategy=zero3" in remedy(ranks, "loading")
    assert "zero3" not in remedy(cell, "loading")
    assert "zero3" not in remedy(with_settings(ranks, optim="adafactor"), "loading"), "it cannot train under it"
    assert "training.optim=paged_adamw_8bit" in remedy(cuda, "loading")
    assert "paged" not in remedy(with_settings(cuda, optim="paged_adamw_8bit"), "loading")
    assert "qlora" not in remedy(qlora, "loading")


def test_a_rank_that_the_kernel_killed_is_found_by_the_kernels_own_count(
    request_: TrainRequest, tmp_path: Path
) -> None:
    in_phase(request_, "training", step=6)
    told = tmp_path / "told"
    with memory_limited(128 << 20) as join:

        def pipeline() -> None:
            join(os.getpid())
            before = kills_so_far()
            assert killed_by_its_own_memory(512 << 20)
            told.write_text(ErrorRecord.of(killed_for_memory(137, before, request_)).model_dump_json())

        assert in_child(pipeline) == 0
    error = ErrorRecord.model_validate_json(told.read_text()).error()
    assert type(error) is BatchTooLargeError
    assert error.what.startswith("a rank was killed (out of memory) near step 7; the largest process of this run had ")
    assert error.what.endswith(f"bytes, the limit is {128 << 20:,}")


def test_a_rank_that_somebody_else_killed_did_not_run_out_of_memory(
    request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "kills_so_far", lambda: Kills(2, 9))
    assert killed_for_memory(137, Kills(2, 8), request_) is None
    assert killed_for_memory(137, Kills(None, 9), request_) is None


def test_the_rank_that_broke_off_first_is_named(request_: TrainRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    Pulse(request_.work, 0).enter("training")
    Pulse(request_.work, 1).enter("evaluating")
    write_failed_rank(request_.work, FailedRank(rank=1, host="here", pid=7, exit_code=-9, at=1.0))
    monkeypatch.setattr(memory, "kills_so_far", lambda: Kills(1, 1))
    error = killed_for_memory(137, Kills(0, 0), request_)
    assert str(error).startswith("lora: rank 1 was killed (out of memory) near step 0, while evaluating; ")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (Kills(0, 0), Kills(1, 1), "(out of memory)"),
        (Kills(None, 3), Kills(None, 4), "(likely out of memory)"),
        (Kills(None, None), Kills(None, None), "(likely out of memory)"),
    ],
    ids=["this group", "the machine", "no counter"],
)
def test_the_surer_the_counter_the_surer_the_word(
    request_: TrainRequest, monkeypatch: pytest.MonkeyPatch, before: Kills, now: Kills, said: str
) -> None:
    monkeypatch.setattr(memory, "kills_so_far", lambda: now)
    assert said in str(killed_for_memory(137, before, request_))
    assert killed_for_memory(1, before, request_) is None


def test_the_limit_is_the_least_of_machine_group_and_address_space(tmp_path: Path) -> None:
    whole = memory_limit_bytes()
    with memory_limited(64 << 20) as join:

        def child() -> None:
            join(os.getpid())
            (tmp_path / "limit").write_text(str(memory_limit_bytes()))

        assert in_child(child) == 0
    assert int((tmp_path / "limit").read_text()) == 64 << 20 < whole
