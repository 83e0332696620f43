"""What each step leaves in its MLflow run: flat rows, the same for every method."""

from __future__ import annotations

import json

import pytest

from tasks.artifacts import Artifact
from tasks.evaluation.values import ShotCount, SizeScores
from tasks.records import (
    Series,
    metric_points,
    record_comparison,
    record_data,
    record_merge,
    record_micro_batch,
    record_restarts,
    record_scores,
    record_tokens,
    record_training,
)
from tasks.tracking import MetricPoint, RunRef
from tasks.tracking.events import MetricsLogged
from tasks.tracking.journal import read_entries
from tasks.tracking.memory import MemoryRun
from tasks.training.recording import MetricLine
from tests.comparison.worlds import five_cells
from tests.records.worlds import LORA, NONE, World


def values_of(run: MemoryRun) -> dict[str, float]:
    return {point.name: point.value for point in run.metrics.values()}


def test_data_leave_counts_a_report_and_their_full_digest(world: World) -> None:
    record_data(world.prepared(), [world.run(), world.run("full")])

    for run in (world.arrived("lora"), world.arrived("full")):
        values = values_of(run)
        assert values["data/train_rows"] == 9 and values["data/bad_rows"] == 1
        assert values["data/prompt_characters_median"] == 10.5
        assert all(name.startswith("data/") for name in values)
        assert run.artifacts["data/report.json"] == b"{}"
        assert run.tags["tuneline.data_digest"] == "e" * 64
        assert run.datasets["train", "e" * 64].source == "a.csv, b.csv"


def test_tokens_leave_counts_and_a_sample_with_its_mask(world: World) -> None:
    record_tokens(world.tokens(), [world.run()])

    values = values_of(world.arrived())
    assert values["tokenize/answer_tokens"] == 80 and values["tokenize/length_p95"] == 30.0
    assert all(name.startswith("tokenize/") for name in values)
    assert world.arrived().artifacts["tokens/sample.md"] == b"# Sample"


def test_training_leaves_results_costs_sizes_and_the_adapter(world: World) -> None:
    record_training(world.trained(world.cell(LORA)), world.run())

    run = world.arrived()
    assert values_of(run) == {
        "train/final_loss": 0.5,
        "train/final_eval_loss": 0.75,
        "train/steps": 20,
        "train/tokens": 4000,
        "perf/train_seconds": 8.0,
        "perf/step_seconds_median": 0.25,
        "perf/tokens_per_second": 500.0,
        "perf/peak_memory_bytes": 1 << 20,
        "peft/trainable_parameters": 128,
        "peft/total_parameters": 9128,
        "peft/weights_bytes": 16,
    }
    assert {point.step for point in run.metrics.values()} == {20}
    assert run.tags["tuneline.weights_sha256"] == "w" * 64
    assert run.artifacts == {"adapter/adapter_config.json": b"{}", "adapter/adapter_model.safetensors": b"w" * 16}


def test_a_whole_model_is_not_copied_into_the_record(world: World) -> None:
    trained = world.trained(world.cell(LORA))
    whole = trained.model_copy(update={"candidate": trained.candidate.model_copy(update={"holds": "model"})})
    record_training(whole, world.run())

    assert world.arrived().artifacts == {}


def test_what_was_not_trained_or_measured_leaves_no_value(world: World) -> None:
    record_training(world.untrained(world.cell(NONE)), world.run("none"))
    trained = world.trained(world.cell(LORA))
    assert trained.result is not None
    record_training(
        trained.model_copy(update={"result": trained.result.model_copy(update={"eval_loss": None})}), world.run()
    )

    assert values_of(world.arrived("none")) == {}
    assert "train/final_eval_loss" not in values_of(world.arrived())


def test_the_workers_lines_keep_their_steps_and_times(world: World) -> None:
    lines = [
        MetricLine(step=1, timestamp_ms=1000, values={"train/loss": 2.0, "train/grad_norm": 0.5}),
        MetricLine(step=2, timestamp_ms=1500, values={"train/loss": 1.0}),
    ]

    assert metric_points(lines) == [
        MetricPoint(name="train/grad_norm", value=0.5, step=1, timestamp_ms=1000),
        MetricPoint(name="train/loss", value=2.0, step=1, timestamp_ms=1000),
        MetricPoint(name="train/loss", value=1.0, step=2, timestamp_ms=1500),
    ]


def test_a_step_stands_once_in_a_series_however_many_attempts_write_it(world: World) -> None:
    def line(step: int, **values: float) -> MetricLine:
        return MetricLine(
            step=step, timestamp_ms=step, values={f"train/{name}": value for name, value in values.items()}
        )

    ref = world.run()
    series = Series(ref)
    series.add([line(1, loss=3.0), line(2, loss=2.0)])
    series.add([line(1, loss=3.1), line(2, loss=2.1), line(2, eval_loss=9.0), line(3, loss=1.0)])

    assert [(point.name, point.step, point.value) for point in points_in(ref)] == [
        ("train/loss", 1, 3.0),
        ("train/loss", 2, 2.0),
        ("train/eval_loss", 2, 9.0),
        ("train/loss", 3, 1.0),
    ]


def points_in(ref: RunRef) -> list[MetricPoint]:
    """All that was handed over, in order."""
    entries = read_entries(ref.journal, 0, 1 << 20)
    events = [entry.event for entry in entries if isinstance(entry.event, MetricsLogged)]
    return [point for event in events for point in event.points]


def test_a_smaller_micro_batch_leaves_what_ran_and_why(world: World) -> None:
    cell = world.cell(LORA)
    smaller = cell.training.model_copy(update={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2})
    record_micro_batch(cell.model_copy(update={"training": smaller}), "no room", world.run())

    tags = world.arrived().tags
    assert (tags["tuneline.micro_batch"], tags["tuneline.micro_batch_reason"]) == ("4 x 2", "no room")
    assert tags["tuneline.cell"] == "f" * 64


def test_a_gang_that_started_again_leaves_how_often_and_why_and_one_that_did_not_leaves_nothing(world: World) -> None:
    record_restarts(["rank 0 was killed by SIGKILL", "no progress for 600 s"], world.run())
    record_restarts([], world.run("calm"))

    tags = world.arrived().tags
    assert (tags["tuneline.restarts"], tags["tuneline.restart_reason"]) == ("2", "no progress for 600 s")
    assert not [name for name in world.arrived("calm").tags if "restart" in name]


@pytest.mark.parametrize(("resumed", "tag"), [(None, None), (15, "15")])
def test_a_training_that_went_on_from_a_checkpoint_says_from_which_step(
    world: World, resumed: int | None, tag: str | None
) -> None:
    trained = world.trained(world.cell(LORA))
    assert trained.cost is not None
    cost = trained.cost.model_copy(update={"resumed_from_step": resumed})
    record_training(trained.model_copy(update={"cost": cost}), world.run())

    assert world.arrived().tags.get("tuneline.resumed_from_step") == tag


def test_a_merge_leaves_its_outcome_and_its_proof_in_numbers(world: World) -> None:
    record_merge(world.merged(world.trained(world.cell(LORA))), world.run())

    run = world.arrived()
    assert values_of(run) == {
        "merge/largest_difference": 1e-6,
        "merge/tolerance": 1e-4,
        "merge/error": 1e-7,
        "merge/adapter_effect": 0.25,
        "merge/same_argmax": 1.0,
    }
    assert run.tags["tuneline.merge"] == "merged"


def test_a_merge_that_cannot_be_says_why(world: World) -> None:
    merged = world.merged(world.trained(world.cell(LORA)))
    changes = {"outcome": "cannot", "reason": "no merged form", "proof": None, "artifact": None}
    record_merge(merged.model_copy(update=changes), world.run())

    run = world.arrived()
    assert (run.tags["tuneline.merge"], run.tags["tuneline.merge_reason"]) == ("cannot", "no merged form")
    assert values_of(run) == {}


def test_scores_leave_flat_metrics_predictions_and_samples_side_by_side(world: World) -> None:
    record_scores(world.evaluated(probe_loss=2.5), world.run())

    run = world.arrived()
    assert values_of(run) == {
        "eval/heldout/loss": 1.25,
        "eval/heldout/bleu": 30.0,
        "eval/cut_prompts": 0,
        "eval/probe/loss": 2.5,
    }
    assert run.tags["tuneline.rows_digest"] == "r" * 64
    assert run.artifacts["evaluation/predictions.jsonl"] == b"{}\n"
    assert json.loads(run.artifacts["evaluation/samples.json"]) == {
        "columns": ["prompt", "reference", "prediction"],
        "data": [["name[Aromi]", "Aromi is a pub.", "Aromi."]],
    }


def test_without_a_probe_there_is_no_probe_loss(world: World) -> None:
    record_scores(world.evaluated(), world.run())

    assert "eval/probe/loss" not in values_of(world.arrived())


def test_the_examples_of_a_hard_prompt_are_counted_in_the_record(world: World) -> None:
    evaluated = world.evaluated()
    count = ShotCount(asked=5, dropped=7, short_prompts=2, rows=("a",))
    few = evaluated.model_copy(update={"scores": evaluated.scores.model_copy(update={"shots": count})})
    record_scores(few, world.run("few"))
    record_scores(evaluated, world.run())

    values = values_of(world.arrived("few"))
    assert (values["eval/shots"], values["eval/dropped_shots"], values["eval/prompts_short_of_shots"]) == (5, 7, 2)
    assert not [name for name in values_of(world.arrived()) if "shots" in name]


def test_quality_per_size_leaves_flat_metrics_and_a_table(world: World) -> None:
    sizes = (
        SizeScores(size="r 8 depth 12", metrics={"loss": 1.25, "bleu": 30.0}),
        SizeScores(size="r 4 depth 6", metrics={"loss": 1.5, "bleu": 25.0}),
    )
    record_scores(world.evaluated(sizes=sizes), world.run())

    run = world.arrived()
    assert {name: value for name, value in values_of(run).items() if "sizes" in name} == {
        "eval/sizes/r-8-depth-12/loss": 1.25,
        "eval/sizes/r-8-depth-12/bleu": 30.0,
        "eval/sizes/r-4-depth-6/loss": 1.5,
        "eval/sizes/r-4-depth-6/bleu": 25.0,
    }
    assert json.loads(run.artifacts["evaluation/sizes.json"]) == {
        "columns": ["size", "loss", "bleu"],
        "data": [["r 8 depth 12", 1.25, 30.0], ["r 4 depth 6", 1.5, 25.0]],
    }


def test_what_a_method_says_of_its_result_stands_beside_its_other_facts(world: World) -> None:
    explained = world.evaluated(explanation={"fusion/adapter_0": 0.75})
    (explained.artifact.path / "explain.json").write_text('{"fusion/adapter_0":0.75}')
    record_scores(explained, world.run())
    record_scores(world.evaluated(), world.run("silent"))

    run, silent = world.arrived(), world.arrived("silent")
    assert values_of(run)["peft/fusion/adapter_0"] == 0.75
    assert run.artifacts["evaluation/explain.json"] == b'{"fusion/adapter_0":0.75}'
    assert not [name for name in values_of(silent) if name.startswith("peft/")]
    assert set(silent.artifacts) == {"evaluation/predictions.jsonl", "evaluation/samples.json"}


def test_a_comparison_leaves_its_files_a_table_and_the_winner(world: World) -> None:
    comparison = five_cells()
    table = world.folder / "comparison.md"
    table.write_text("# Table")
    record_comparison(comparison, [table], world.run("parent"))

    run = world.arrived("parent")
    assert run.artifacts["comparison/comparison.md"] == b"# Table"
    kept = json.loads(run.artifacts["comparison/table.json"])
    rows = [dict(zip(kept["columns"], row, strict=True)) for row in kept["data"]]
    assert {row["label"]: row["bleu"] for row in rows}["full"] == 31.23
    assert (run.tags["tuneline.winner"], run.tags["tuneline.metric"]) == (comparison.winner, "loss")


@pytest.mark.parametrize("known", [True, False], ids=["known to the server", "still in the spool"])
def test_what_was_adopted_leads_back_to_the_run_that_made_it(world: World, known: bool) -> None:
    maker = world.run("maker")
    expected = world.arrived("maker").run_id if known else maker.key
    record_training(world.trained(world.cell(LORA), cached=True, made_by=maker.key), world.run())
    record_scores(world.evaluated(cached=True, made_by=maker.key), world.run("other"))

    assert world.arrived().tags["tuneline.made_by.train"] == expected
    assert world.arrived("other").tags["tuneline.made_by.evaluate"] == expected


def test_what_a_run_made_itself_leads_nowhere(world: World) -> None:
    run = world.run()
    record_training(world.trained(world.cell(LORA), cached=False, made_by=run.key), run)
    record_scores(world.evaluated(cached=True, made_by=run.key), run)

    assert [name for name in world.arrived().tags if name.startswith("tuneline.made_by")] == []


def test_an_artifact_without_a_maker_leads_nowhere(world: World) -> None:
    artifact: Artifact = world.artifact("merge", cached=True)
    merged = world.merged(world.trained(world.cell(LORA))).model_copy(update={"artifact": artifact})
    record_merge(merged, world.run())

    assert "tuneline.made_by.merge" not in world.arrived().tags
