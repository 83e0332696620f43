"""From what became of each cell to the rows of the comparison."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.evaluation.values import ShotCount, SizeScores
from tasks.foundation.errors import DivergenceError, ErrorRecord
from tasks.records import CellOutcome, comparison_rows, lead_back
from tasks.training.memory import MicroBatch
from tasks.training.retry import with_micro_batch
from tests.records.worlds import EARLIER, LORA, NONE, RUN, World


def base_outcome(world: World, **scores: Any) -> CellOutcome:
    cell = world.cell(NONE)
    return CellOutcome(
        cell=cell, run=world.run("none"), trained=world.untrained(cell), evaluated=world.evaluated(**scores)
    )


def lora_outcome(world: World, cached: tuple[bool, bool, bool] = (False, False, False), **scores: Any) -> CellOutcome:
    trained = world.trained(world.cell(LORA), cached=cached[0])
    return CellOutcome(
        cell=trained.cell,
        run=world.run(),
        run_id="run7",
        trained=trained,
        merged=world.merged(trained, cached=cached[1]),
        evaluated=world.evaluated(cached=cached[2], **scores),
    )


def test_a_row_holds_scores_and_costs(world: World) -> None:
    (row,) = comparison_rows([lora_outcome(world)])

    assert (row.label, row.kind, row.seed, row.status, row.run_id) == ("lora", "lora", 3, "done", "run7")
    assert row.metrics == {"loss": 1.25, "bleu": 30.0}
    assert (row.trainable_parameters, row.weights_bytes, row.peak_memory_bytes) == (128, 16, 1 << 20)
    assert (row.train_seconds, row.tokens_per_second, row.merge) == (8.0, 500.0, "merged")
    assert row.rows_digest == "r" * 64


def test_a_row_tells_the_micro_batch_that_ran_where_it_is_not_the_one_that_was_asked_for(world: World) -> None:
    asked = lora_outcome(world)
    assert asked.trained is not None
    ran = with_micro_batch(asked.cell, MicroBatch(4, 2))
    fitting = asked.model_copy(update={"trained": asked.trained.model_copy(update={"cell": ran})})

    notes = [row.note for row in comparison_rows([asked, fitting])]
    assert notes == ["", "trained with micro-batches of 4 x 2, since 8 x 1 ran out of memory"]


def test_a_row_holds_the_quality_of_every_size(world: World) -> None:
    sizes = (SizeScores(size="drop 0", metrics={"loss": 1.25}), SizeScores(size="drop 1", metrics={"loss": 1.5}))
    (row,) = comparison_rows([lora_outcome(world, sizes=sizes)])

    assert list(row.sizes.items()) == [("drop 0", {"loss": 1.25}), ("drop 1", {"loss": 1.5})]


@pytest.mark.parametrize(
    ("settings", "hard"), [({}, False), ({"shots": 2}, True), ({"template": "{prompt}: {completion}"}, True)], ids=str
)
def test_a_row_says_whether_the_base_was_asked_by_a_hard_prompt(
    world: World, settings: dict[str, Any], hard: bool
) -> None:
    cell = world.cell(NONE | settings)
    outcome = base_outcome(world).model_copy(update={"cell": cell})

    assert comparison_rows([outcome])[0].hard_prompt is hard


def test_a_row_tells_before_how_many_prompts_not_all_examples_fit(world: World) -> None:
    outcome = base_outcome(world)
    assert outcome.evaluated is not None
    scores = outcome.evaluated.scores
    notes = []
    for short in (0, 1):
        count = ShotCount(asked=5, dropped=3 * short, short_prompts=short, rows=("a",))
        few = outcome.evaluated.model_copy(update={"scores": scores.model_copy(update={"shots": count})})
        notes += [row.note for row in comparison_rows([outcome.model_copy(update={"evaluated": few})])]

    assert notes == [
        "",
        "1 of 1 prompts stand behind fewer than 5 examples, since no more fit into the model's context",
    ]


def test_a_row_tells_what_its_cell_goes_on_from(world: World) -> None:
    outcome = lora_outcome(world)
    cell = outcome.cell.model_copy(update={"sources": {"init_from": EARLIER}})

    (row,) = comparison_rows([outcome.model_copy(update={"cell": cell})])
    assert row.note == f"init_from run {RUN} (555555555555)"


def test_the_untuned_base_trains_nothing_and_costs_nothing(world: World) -> None:
    (row,) = comparison_rows([base_outcome(world)])

    assert (row.trainable_parameters, row.train_seconds, row.merge, row.forgetting) == (0, None, "-", None)


def test_forgetting_is_the_change_of_the_probe_loss_against_the_untuned_base(world: World) -> None:
    rows = comparison_rows([lora_outcome(world, probe_loss=2.75), base_outcome(world, probe_loss=2.0)])

    assert [row.forgetting for row in rows] == [0.75, None]


@pytest.mark.parametrize(("base", "tuned"), [(None, 2.0), (2.0, None)])
def test_without_both_probe_losses_there_is_no_forgetting(
    world: World, base: float | None, tuned: float | None
) -> None:
    rows = comparison_rows([base_outcome(world, probe_loss=base), lora_outcome(world, probe_loss=tuned)])

    assert [row.forgetting for row in rows] == [None, None]


def test_a_failed_cell_is_a_row_with_its_reason(world: World) -> None:
    error = ErrorRecord.of(DivergenceError("the loss became NaN", where="step 12", fix="Lower\nthe rate"))
    failed = CellOutcome(cell=world.cell(LORA), run=world.run(), run_id="run7", error=error)
    (row,) = comparison_rows([failed])

    assert (row.status, row.reason) == ("failed", "step 12: the loss became NaN. Lower the rate.")
    assert (row.metrics, row.run_id) == ({}, "run7")


def test_a_cell_whose_last_step_failed_shows_no_scores_of_it(world: World) -> None:
    error = ErrorRecord.of(DivergenceError("no"))
    half = lora_outcome(world).model_copy(update={"evaluated": None, "error": error})

    assert comparison_rows([half])[0].status == "failed"


def test_a_cell_that_never_ran_says_so(world: World) -> None:
    (row,) = comparison_rows([CellOutcome(cell=world.cell(LORA), run=world.run())])

    assert (row.status, row.reason) == ("failed", "it did not run")


@pytest.mark.parametrize(
    ("cached", "status"),
    [((True, True, True), "cached"), ((True, True, False), "done"), ((False, True, True), "done")],
)
def test_a_cell_is_cached_when_none_of_its_steps_had_to_run(
    world: World, cached: tuple[bool, bool, bool], status: str
) -> None:
    outcome = lora_outcome(world, cached)

    assert outcome.cached == (status == "cached")
    assert comparison_rows([outcome])[0].status == status


def test_the_base_is_cached_when_its_evaluation_was(world: World) -> None:
    assert base_outcome(world, cached=True).cached
    assert not base_outcome(world).cached


def test_what_did_nothing_at_all_is_not_cached(world: World) -> None:
    assert not CellOutcome(cell=world.cell(LORA), run=world.run()).cached


def test_a_cached_cell_leads_back_to_the_run_that_made_it_and_others_do_not(world: World) -> None:
    maker = world.run("maker")
    made = world.arrived("maker").run_id
    lead_back(
        [
            base_outcome(world, cached=True, made_by=maker.key),
            lora_outcome(world, (True, True, False), made_by=maker.key),
        ]
    )

    assert world.arrived("none").tags["tuneline.cached_from"] == made
    assert "tuneline.cached_from" not in world.arrived("lora").tags
