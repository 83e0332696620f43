"""Going on from what lies there: with everything the same, with the number of ranks changed, or not at all."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError, ConflictError, IntegrityError
from tasks.launch import Layout
from tasks.methods import Conditions
from tasks.models.values import BaseModel
from tasks.training import adoption
from tasks.training.adoption import take_over
from tasks.training.checkpoints import Checkpoints
from tasks.training.lineage import Resume, facts_of, parse_resume, with_past, write_card
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.run import request_for
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainCost
from tests.training.gangs import ForkLauncher, run_gang
from tests.training.worlds import LORA, QUICK, loss_series

STEADY = LORA | {"lora_dropout": 0.0}
"""Without chance in it, so that one and two ranks differ by rounding only."""
GO_ON = Resume(required=True)
OTHER_SIZE = parse_resume(False, ["world_size"])


class World:
    """One base, one set of tokens, and the folder in which cells work."""

    def __init__(self, base: BaseModel, tokens: Artifact, works: Path) -> None:
        self.base = base
        self.tokens = tokens
        self.works = works

    def cell(self, ranks: int = 1, layout: Layout | None = None, **changes: Any) -> Cell:
        """Global batch 4, unless the changes say otherwise."""
        settings = QUICK.model_dump() | {"per_device_train_batch_size": 4 // ranks} | changes
        method = STEADY | ({"learning_rate": settings["learning_rate"]} if settings["learning_rate"] else {})
        spec = CellSpec(
            label="lora",
            method=method,
            seed=0,
            layout=layout or Layout(ranks_per_node=ranks),
            experiment="toy",
        )
        conditions = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
        return plan_cell(spec, self.base, self.tokens, TrainingSettings.model_validate(settings), conditions)

    def work(self, cell: Cell) -> Path:
        return self.works / cell.fingerprint

    def train(self, cell: Cell, fault: str = "") -> Any:
        """As the pipeline does; what it raised and told."""
        request = request_for(cell, self.work(cell), self.works.parent / f"output-{cell.fingerprint}")
        request.output.mkdir(exist_ok=True)
        environment = {"TUNELINE_FAULT": fault} if fault else {}
        return run_gang(request, ForkLauncher(environment=environment, max_restarts=0))

    def weights(self, cell: Cell) -> dict[str, torch.Tensor]:
        return load_file(self.works.parent / f"output-{cell.fingerprint}" / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def broken_off(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two ranks were killed after step 6."""
    world = World(base, tokens, tmp_path_factory.mktemp("lineage") / "works")
    error, _ = world.train(world.cell(2), "train.step:7:kill:0")
    assert error.exit_code == 32
    return world


@pytest.fixture
def world(broken_off: World, tmp_path: Path) -> World:
    """The same, for one test."""
    shutil.copytree(broken_off.works, tmp_path / "works")
    return World(broken_off.base, broken_off.tokens, tmp_path / "works")


def test_a_cell_with_checkpoints_of_its_own_goes_on_from_them(world: World) -> None:
    cell = world.cell(2)
    for resume in (Resume(), GO_ON, OTHER_SIZE):
        assert with_past(cell, resume, world.works) == (cell, "")


def test_without_any_attempt_it_begins_also_with_resume(world: World, tmp_path: Path) -> None:
    cell = world.cell(1)
    assert with_past(cell, GO_ON, tmp_path / "nothing") == (cell, "")


def test_changed_settings_begin_anew_and_one_note_names_the_difference(world: World) -> None:
    cell = world.cell(2, learning_rate=0.5)
    chosen, note = with_past(cell, Resume(), world.works)
    assert chosen == cell
    assert note == "begins anew; an attempt that reached step 6 differs: method.learning_rate 0.01 -> 0.5"


def test_row_44_with_resume_changed_settings_are_refused_with_all_that_differs(world: World) -> None:
    cell = world.cell(2, learning_rate=0.5, weight_decay=0.25)
    with pytest.raises(ConfigError, match="lora cannot go on from step 6") as refused:
        with_past(cell, GO_ON, world.works)
    assert "method.learning_rate 0.01 -> 0.5, method.weight_decay 0.0 -> 0.25" in refused.value.what
    assert refused.value.where == str(world.work(world.cell(2)))
    assert "without --resume" in refused.value.fix


def test_row_44_another_number_of_ranks_needs_to_be_allowed(world: World) -> None:
    with pytest.raises(ConfigError, match="ranks 2 -> 1") as refused:
        with_past(world.cell(1), GO_ON, world.works)
    assert "--allow world_size" in refused.value.fix


@pytest.mark.parametrize(
    ("ranks", "changes", "words"),
    [
        (1, {"learning_rate": 0.5}, r"method\.learning_rate 0\.01 -> 0\.5"),
        (1, {"per_device_train_batch_size": 2}, "the global batch would be 2 instead of 4"),
        (4, {"layout": Layout(ranks_per_node=4, engine="fsdp2")}, 'engine "ddp" -> "fsdp2"'),
    ],
)
def test_row_44_allowing_another_size_allows_nothing_else(world: World, ranks: int, changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_past(world.cell(ranks, **changes), OTHER_SIZE, world.works)


def test_the_partitions_of_another_engine_are_refused_with_the_reason(world: World) -> None:
    sharded = world.cell(layout=Layout(ranks_per_node=2, engine="fsdp2"), per_device_train_batch_size=2)
    shutil.copytree(world.work(world.cell(2)), world.work(sharded))
    shutil.rmtree(world.work(world.cell(2)))
    write_card(sharded, world.work(sharded))
    more = world.cell(4, layout=Layout(ranks_per_node=4, engine="fsdp2"))
    with pytest.raises(ConfigError, match="partitions of ZeRO and FSDP belong to as many ranks as wrote them"):
        with_past(more, OTHER_SIZE, world.works)


@pytest.mark.parametrize("change", [{"label": "other"}, {"seed": 1}, {"experiment": "other"}])
def test_attempts_at_something_else_do_not_count(world: World, change: dict) -> None:
    cell = world.cell(1).model_copy(update=change)
    assert with_past(cell, GO_ON, world.works) == (cell, "")


def test_only_known_names_can_be_allowed() -> None:
    with pytest.raises(ConfigError, match="'learning_rate' may not differ") as refused:
        parse_resume(False, ["learning_rate"])
    assert refused.value.allowed == "world_size"


@pytest.mark.parametrize(
    ("ranks", "micro"),
    [(1, 4), pytest.param(1, 2, marks=pytest.mark.system), pytest.param(4, 1, marks=pytest.mark.system)],
    ids=["one", "one in micro-steps", "four"],
)
def test_another_number_of_ranks_goes_on_within_a_tolerance_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture, ranks: int, micro: int
) -> None:
    split = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 4 // micro // ranks}
    plain = world.cell(ranks, **split)
    cell, note = with_past(plain, OTHER_SIZE, world.works)
    assert note == f"goes on from step 6, from 2 ranks to {ranks}: equal within a tolerance, not bit for bit"
    assert cell.fingerprint != plain.fingerprint
    error, _ = world.train(cell)
    assert error is None, error
    series = loss_series(request_for(cell, world.work(cell), world.works))
    assert [step for step, _ in series] == list(range(1, 9))
    cost = TrainCost.model_validate_json((world.works.parent / f"output-{cell.fingerprint}" / "cost.json").read_bytes())
    assert (cost.resumed_from_step, cost.resumed_from_world_size) == (6, 2)
    two = world.cell(2)
    assert world.train(two)[0] is None
    one, other = world.weights(cell), world.weights(two)
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-4
    assert [loss for _, loss in series] == pytest.approx(
        [loss for _, loss in loss_series(request_for(two, world.work(two), world.works))], abs=1e-4
    )


def test_what_was_taken_over_is_taken_up_again_after_a_kill_and_repeats_from_there(world: World) -> None:
    cell, _ = with_past(world.cell(1), OTHER_SIZE, world.works)
    assert world.train(cell, "train.step:2:kill")[0].exit_code == 32
    again, _ = with_past(world.cell(1), OTHER_SIZE, world.works)
    assert again == cell
    assert world.train(again)[0] is None
    assert Checkpoints(world.work(cell) / "checkpoints", facts_of(cell)).newest() == 8


def test_a_checkpoint_that_changed_since_it_was_planned_is_not_taken(world: World) -> None:
    cell, _ = with_past(world.cell(1), OTHER_SIZE, world.works)
    source = world.work(world.cell(2)) / "checkpoints"
    shutil.rmtree(source / "step-00000006")
    shutil.copytree(source / "step-00000004", source / "step-00000006")
    error, _ = world.train(cell)
    assert isinstance(error, IntegrityError)


def test_an_attempt_that_still_trains_is_not_taken_over(world: World) -> None:
    from filelock import FileLock

    cell, _ = with_past(world.cell(1), OTHER_SIZE, world.works)
    with FileLock(world.work(world.cell(2)) / "lock"):
        error, _ = world.train(cell)
    assert isinstance(error, ConflictError)


def test_a_damaged_newest_checkpoint_is_not_taken_over_but_the_one_before(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    victim = world.work(world.cell(2)) / "checkpoints" / "step-00000006" / "optimizer.pt"
    victim.write_bytes(victim.read_bytes()[:-1])
    cell, note = with_past(world.cell(1), OTHER_SIZE, world.works)
    assert note.startswith("goes on from step 4")
    assert cell.adopted
    assert cell.adopted.step == 4


def test_a_copy_that_was_broken_off_is_made_again_and_nothing_older_is_gone_on_from(world: World) -> None:
    cell, _ = with_past(world.cell(1), OTHER_SIZE, world.works)
    error, _ = world.train(cell)
    assert error is None
    mine = Checkpoints(world.work(cell) / "checkpoints", facts_of(cell))
    whole = world.weights(cell)
    shutil.rmtree(world.work(cell))
    request = request_for(cell, world.work(cell), world.works.parent / f"output-{cell.fingerprint}")
    request.work.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adoption, "_cut", only_the_first(adoption._cut))
        with pytest.raises(KeyboardInterrupt):
            take_over(request)
    assert mine.steps() == [2]
    take_over(request)
    assert mine.steps() == [2, 4, 6]
    assert world.train(cell)[0] is None
    again = world.weights(cell)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def only_the_first(honest: Any) -> Any:
    """The function, which the second call breaks off."""
    calls: list[Any] = []

    def once(*given: Any) -> None:
        calls.append(given)
        if len(calls) > 1:
            raise KeyboardInterrupt
        honest(*given)

    return once


def test_a_damaged_older_checkpoint_is_left_behind_and_does_not_keep_the_newest_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    victim = world.work(world.cell(2)) / "checkpoints" / "step-00000004" / "optimizer.pt"
    victim.write_bytes(victim.read_bytes()[:-1])
    cell, _ = with_past(world.cell(1), OTHER_SIZE, world.works)
    request = request_for(cell, world.work(cell), world.works.parent / "output")
    request.work.mkdir(parents=True)
    take_over(request)
    assert Checkpoints(request.work / "checkpoints", request.identity).steps() == [2, 6]
    assert "checkpoint of step 4 is damaged" in caplog.text
