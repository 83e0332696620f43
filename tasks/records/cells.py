"""Records of one cell's own steps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.evaluation.values import EvaluatedCell
from tasks.merging.values import MergedCell
from tasks.records.origin import origin_tags
from tasks.tracking import Run, RunRef
from tasks.training.recipe import RECIPE
from tasks.training.retry import micro_batch_text
from tasks.training.values import Cell, TrainedCell

SUITE = "heldout"
"""The evaluation rows of the experiment's `data.eval`."""


def record_micro_batch(cell: Cell, reason: str, ref: RunRef) -> None:
    """What runs instead of what the parameters say, since that did not fit into memory."""
    Run(ref).set_tags(
        {
            "tuneline.cell": cell.fingerprint,
            "tuneline.micro_batch": micro_batch_text(cell.training),
            "tuneline.micro_batch_reason": reason,
        }
    )


def record_restarts(reasons: Sequence[str], ref: RunRef) -> None:
    """How often the gang started again by itself after a death or a hang, and why it did so last."""
    if reasons:
        Run(ref).set_tags({"tuneline.restarts": str(len(reasons)), "tuneline.restart_reason": reasons[-1]})


def record_training(trained: TrainedCell, ref: RunRef) -> None:
    """Results as `train/…`, cost as `perf/…`, sizes as `peft/…`; an adapter, not a whole model, as an artifact."""
    if trained.result is None or trained.cost is None:
        return
    run = Run(ref)
    result, cost = trained.result, trained.cost
    values = {
        "train/final_loss": result.train_loss,
        "train/steps": result.steps,
        "train/tokens": result.train_tokens,
        "perf/train_seconds": cost.train_seconds,
        "perf/step_seconds_median": cost.step_seconds_median,
        "perf/tokens_per_second": cost.tokens_per_second,
        "perf/peak_memory_bytes": cost.peak_memory_bytes,
        "peft/trainable_parameters": result.trainable_parameters,
        "peft/total_parameters": result.total_parameters,
        "peft/weights_bytes": result.weights_bytes,
    }
    if result.eval_loss is not None:
        values["train/final_eval_loss"] = result.eval_loss
    run.log_metrics(values, result.steps)
    began = {} if cost.resumed_from_step is None else {"tuneline.resumed_from_step": str(cost.resumed_from_step)}
    run.set_tags({"tuneline.weights_sha256": result.weights_digest} | began | origin_tags(trained.artifact, ref))
    if trained.candidate.holds == "adapter" and trained.candidate.weights:
        for path in sorted(trained.candidate.weights.iterdir()):
            run.log_artifact(path, "adapter")
    if trained.artifact and (recipe := trained.artifact.path / RECIPE).exists():
        run.log_artifact(recipe, "train")


def record_merge(merged: MergedCell, ref: RunRef) -> None:
    """What became of the adapter, with the proof in numbers."""
    run = Run(ref)
    reason = {"tuneline.merge_reason": merged.reason} if merged.reason else {}
    run.set_tags({"tuneline.merge": merged.outcome} | reason | origin_tags(merged.artifact, ref))
    if merged.proof:
        run.log_metrics(
            {
                "merge/largest_difference": merged.proof.largest_difference,
                "merge/tolerance": merged.proof.tolerance,
                "merge/error": merged.proof.error,
                "merge/adapter_effect": merged.proof.adapter_effect,
                "merge/same_argmax": merged.proof.same_argmax,
            }
        )


def record_scores(evaluated: EvaluatedCell, ref: RunRef) -> None:
    """Scores as `eval/<suite>/<metric>`, per-example predictions as a file, a few samples as a table."""
    run = Run(ref)
    scores = evaluated.scores
    values = {f"eval/{SUITE}/{name}": value for name, value in scores.metrics.items()}
    values["eval/cut_prompts"] = scores.cut_prompts
    if scores.probe_loss is not None:
        values["eval/probe/loss"] = scores.probe_loss
    if scores.shots:
        counted = {"shots": scores.shots.asked, "dropped_shots": scores.shots.dropped}
        counted["prompts_short_of_shots"] = scores.shots.short_prompts
        values |= {f"eval/{name}": count for name, count in counted.items()}
    if evaluated.cost:
        values["perf/evaluation_seconds"] = evaluated.cost.seconds
    run.log_metrics(values)
    run.set_tags({"tuneline.rows_digest": scores.rows_digest} | origin_tags(evaluated.artifact, ref))
    run.log_artifact(evaluated.artifact.path / "predictions.jsonl", "evaluation")
    if evaluated.samples:
        rows = [
            {"prompt": sample.prompt, "reference": sample.references[0], "prediction": sample.prediction}
            for sample in evaluated.samples
        ]
        run.log_table(rows, "evaluation/samples.json")
    _record_told(evaluated, run)


def _record_told(evaluated: EvaluatedCell, run: Run) -> None:
    """Quality per size as `eval/sizes/<size>/<metric>` and a table; what the method says as `peft/<name>`."""
    sizes = {f"eval/sizes/{_slug(s.size)}/{name}": value for s in evaluated.sizes for name, value in s.metrics.items()}
    run.log_metrics(sizes | {f"peft/{name}": value for name, value in evaluated.explanation.items()})
    if evaluated.sizes:
        run.log_table([{"size": size.size} | size.metrics for size in evaluated.sizes], "evaluation/sizes.json")
    if evaluated.explanation:
        run.log_artifact(evaluated.artifact.path / "explain.json", "evaluation")


def _slug(size: str) -> str:
    """As a part of a metric's name: `r 8 depth 12` -> `r-8-depth-12`."""
    return re.sub(r"[^\w.]+", "-", size).strip("-")
