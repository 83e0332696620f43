"""Several ranks compute what one would, under every engine, and the same bytes each time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.artifacts import MANIFEST, Artifact
from tasks.foundation.errors import ConfigError, ErrorRecord
from tasks.models.values import BaseModel
from tasks.training.recorder import Recorder
from tasks.training.settings import TrainingSettings
from tasks.training.trainer import CellTrainer
from tasks.training.values import TrainRequest
from tests.models.tiny import tiny_base, write_tiny_mixtral
from tests.training.layouts import cell_on, layout_of
from tests.training.ranks import fork_ranks, run_ranks, trained_by_ranks
from tests.training.worlds import LORA, QUICK, loss_series, request_in, trained, write_tokens

FULL = {"kind": "full", "learning_rate": 1e-3}
PLAIN_LORA = LORA | {"lora_dropout": 0.0}
ADALORA = {"kind": "adalora", "init_r": 6, "target_r": 2, "lora_dropout": 0.0, "learning_rate": 1e-2}
PROMPT = {"kind": "prompt_tuning", "num_virtual_tokens": 4, "learning_rate": 1e-2}
SHARING = ("zero1", "zero2", "zero3", "fsdp2")


def engines(*quick: str, of: tuple[str, ...] = SHARING) -> pytest.MarkDecorator:
    """All of these engines, the quick ones in `make test`, the others in `make system`."""
    slow = [name for name in of if name not in quick]
    marked = [*quick, *(pytest.param(name, marks=pytest.mark.system) for name in slow)]
    return pytest.mark.parametrize("strategy", marked)


def settings_with(**changes: object) -> TrainingSettings:
    return TrainingSettings.model_validate(QUICK.model_dump() | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "output").rglob("*.safetensors")))


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one if one[name].numel())


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A mixture of experts whose loss holds the router's penalty."""
    return tiny_base(write_tiny_mixtral(tmp_path_factory.mktemp("engines") / "mixture"))


@pytest.mark.parametrize(
    ("method", "rows", "ranks", "micro", "steps"),
    [
        (FULL, 13, 2, 2, 1),
        (PLAIN_LORA, 13, 3, 1, 2),
        (PROMPT, 13, 2, 1, 2),
        (FULL, 2, 3, 2, 1),
        (ADALORA, 13, 2, 2, 1),
        (PLAIN_LORA | {"init_lora_weights": "corda"}, 13, 2, 2, 1),
        (PLAIN_LORA | {"init_lora_weights": "eva"}, 13, 2, 1, 2),
    ],
    ids=[
        "partial window",
        "three ranks that accumulate",
        "virtual tokens",
        "fewer rows than ranks",
        "ranks that move and a penalty",
        "a start from the data and the weights",
        "a start from the data",
    ],
)
def test_n_ranks_of_b_train_like_one_of_nb_and_take_no_row_twice(
    base: BaseModel, tmp_path: Path, method: dict[str, Any], rows: int, ranks: int, micro: int, steps: int
) -> None:
    tokens = write_tokens(tmp_path / "tokens", rows=rows)
    one_epoch: dict[str, object] = {"max_steps": None, "num_train_epochs": 2.0, "gradient_accumulation_steps": steps}
    one_epoch |= {"optim": "sgd"}  # Adam makes a step of full size from a difference in the last bit of a tiny gradient
    results = {}
    for name, count in (("one", 1), ("all", ranks)):
        settings = settings_with(**one_epoch, per_device_train_batch_size=micro * ranks // count)
        request = request_in(tmp_path / name, cell_on(layout_of("ddp", count), base, tokens, method, settings))
        results[name] = trained(request) if count == 1 else trained_by_ranks(request)
    assert difference(weights(tmp_path / "one"), weights(tmp_path / "all")) < 1e-5
    assert results["one"].train_tokens == results["all"].train_tokens
    assert results["one"].train_loss == pytest.approx(results["all"].train_loss, abs=1e-5)
    assert results["one"].eval_loss == pytest.approx(results["all"].eval_loss, abs=1e-5)


def test_a_rank_without_rows_adds_no_penalty_of_a_router(mixture: BaseModel, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens", rows=1)
    settings = settings_with(max_steps=3, per_device_train_batch_size=1)
    for name, ranks in (("one", 1), ("two", 2)):
        request = request_in(tmp_path / name, cell_on(layout_of("ddp", ranks), mixture, tokens, FULL, settings))
        trained(request) if ranks == 1 else trained_by_ranks(request)
    (step, alone), *_ = loss_series(request_in(tmp_path / "one", request.cell))
    assert loss_series(request)[0] == (step, pytest.approx(alone, abs=1e-5))


@engines("ddp")
def test_three_ranks_repeat_and_resume_at_every_saved_step_to_the_same_bytes(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str
) -> None:
    settings = settings_with(max_steps=6, save_steps=2, per_device_train_batch_size=2, save_total_limit=9)
    cell = cell_on(layout_of(strategy, 3), base, tokens, LORA, settings)
    whole, again = (request_in(tmp_path / name, cell) for name in ("whole", "again"))
    result = trained_by_ranks(whole)
    assert trained_by_ranks(again) == result
    for kept in (2, 4, 6):
        resumed = request_in(tmp_path / f"from {kept}", cell)
        shutil.copytree(whole.work, resumed.work, dirs_exist_ok=True)
        for step in range(kept + 2, 7, 2):
            shutil.rmtree(resumed.work / "checkpoints" / f"step-{step:08d}")
        assert trained_by_ranks(resumed) == result
        assert loss_series(resumed) == loss_series(whole)


@engines("ddp", of=("zero2", "fsdp2"))
def test_a_checkpoint_between_two_logged_losses_resumes_to_the_same_series(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_step_end = Recorder.on_step_end

    def saving(self: Recorder, args, state, control, **given) -> None:
        on_step_end(self, args, state, control, **given)
        control.should_save |= state.global_step == 4

    monkeypatch.setattr(Recorder, "on_step_end", saving)
    settings = settings_with(max_steps=7, save_steps=3, save_total_limit=9, logging_steps=3)
    cell = cell_on(layout_of(strategy, 2), base, tokens, LORA, settings)
    whole, resumed = (request_in(tmp_path / name, cell) for name in ("whole", "resumed"))
    result = trained_by_ranks(whole)
    shutil.copytree(whole.work, resumed.work, dirs_exist_ok=True)
    for step in (6, 7):
        shutil.rmtree(resumed.work / "checkpoints" / f"step-{step:08d}")
    assert trained_by_ranks(resumed) == result
    assert [step for step, _ in loss_series(resumed)] == [3, 6, 7]
    assert loss_series(resumed) == loss_series(whole)


@engines("zero2", "fsdp2")
def test_each_rank_saves_its_part_of_the_optimiser_and_nothing_that_is_frozen(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str
) -> None:
    settings = settings_with(max_steps=2, per_device_train_batch_size=2)
    request = request_in(tmp_path, cell_on(layout_of(strategy, 2), base, tokens, LORA, settings))
    result = trained_by_ranks(request)
    checkpoint = request.work / "checkpoints" / "step-00000002"
    sealed = (checkpoint / MANIFEST).read_text(encoding="utf-8")
    parts = sorted(checkpoint.glob("optimizer_*.pt" if strategy == "fsdp2" else "deepspeed/*optim_states.pt"))
    assert len(parts) == 2
    assert all(path.name in sealed for path in parts)
    moments = 8 * result.trainable_parameters
    assert all(0.4 * moments < path.stat().st_size < 1.2 * moments + 40_000 for path in parts)
    assert not list(checkpoint.rglob("*.py"))
    on_disk = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert on_disk < 4 * base.facts.parameters


@engines("ddp", "zero3")
def test_a_loss_that_is_not_finite_on_one_rank_ends_all_of_them_and_leaves_no_such_checkpoint(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str
) -> None:
    settings = settings_with(max_steps=6, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    request = request_in(tmp_path, cell_on(layout_of(strategy, 2), base, tokens, LORA, settings))
    assert run_ranks(request, TUNELINE_FAULT="train.step:5:nan:1") == [30, 30]
    assert failure_of(request).what == "the loss became nan at step 3"
    assert [path.name for path in (request.work / "checkpoints").glob("step-*")] == ["step-00000002"]


@engines("zero3", of=("zero0", "zero1", "fsdp2"))
def test_a_tensor_that_an_engines_optimiser_does_not_hold_fails_the_audit_on_every_rank(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_one(self: CellTrainer) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())[:-1], "lr": 1e-3, "weight_decay": 0.0}]

    monkeypatch.setattr(CellTrainer, "parameter_groups", all_but_one)
    settings = settings_with(per_device_train_batch_size=2)
    request = request_in(tmp_path, cell_on(layout_of(strategy, 2), base, tokens, FULL, settings))
    assert run_ranks(request) == [12, 12]
    assert failure_of(request).what == "1 trainable tensors did not change in the first steps, first model.norm.weight"


@engines("zero2", of=("zero0", "zero1", "zero3", "fsdp2"))
def test_bf16_computes_rounded_and_saves_what_the_optimiser_holds_in_float32(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str
) -> None:
    settings = settings_with(precision="bf16", max_steps=4, per_device_train_batch_size=2)
    request = request_in(tmp_path, cell_on(layout_of(strategy, 2), base, tokens, LORA, settings))
    trained_by_ranks(request)
    saved = weights(tmp_path)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in saved.values())
    exact = request_in(
        tmp_path / "fp32",
        cell_on(layout_of("ddp", 2), base, tokens, LORA, settings_with(max_steps=4, per_device_train_batch_size=2)),
    )
    trained_by_ranks(exact)
    assert 0 < difference(saved, weights(tmp_path / "fp32")) < 0.02


def test_a_rank_that_was_to_have_an_accelerator_never_computes_on_the_cpu(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    asked = layout_of("ddp", 1).model_copy(update={"device": "cuda"})
    request = request_in(tmp_path, cell_on(asked, base, tokens, LORA))
    assert request.cell.training.precision == "bf16"
    assert run_ranks(request, CUDA_VISIBLE_DEVICES="") == [20]
    assert "has no accelerator" in failure_of(request).what


def test_deepspeed_without_a_launcher_says_so(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    request = request_in(tmp_path, cell_on(layout_of("zero2", 1), base, tokens, LORA))
    with pytest.raises(ConfigError, match="DeepSpeed needs a launcher"):
        trained(request)


def test_another_number_of_ranks_than_the_cell_has_is_refused(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, cell_on(layout_of("ddp", 2), base, tokens, LORA))
    path = request.work / "request.json"
    path.write_text(request.model_dump_json(), encoding="utf-8")
    (alone,) = fork_ranks(path, 1)
    alone.join()
    assert alone.exitcode == 10
    assert failure_of(request).what == "1 ranks were started for a cell of 2"


def failure_of(request: TrainRequest) -> ErrorRecord:
    return ErrorRecord.model_validate_json((request.work / "failure.json").read_text(encoding="utf-8"))
