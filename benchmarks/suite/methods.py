"""Every method on real data over several seeds: does what the literature says of them hold here?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, ClassVar

import yaml

from benchmarks.base import Benchmark, Conditions, SkippedError
from benchmarks.findings import Finding
from benchmarks.running import ROOT, environment, seconds_of, tuneline
from benchmarks.world import SHARED
from tasks.comparison.values import Comparison, ComparisonRow

_EXPERIMENT = ROOT / "configs" / "experiments" / "every-method.yaml"
_OTHER_TASK = {
    "train": str(SHARED / "data" / "gsm8k" / "train.jsonl"),
    "eval": str(SHARED / "data" / "gsm8k" / "test.jsonl"),
    "columns": {"prompt": "question", "completion": "answer"},
}
"""Grade-school maths: as far from restaurant descriptions as the shared data goes."""
_AS_IT_IS: Mapping[str, Any] = {"max_steps": 4, "learning_rate": 1e-6}
"""An earlier adapter, but for four steps in which AdamW moves each number by some millionths: the audit of what trains
would take less for nothing."""

ORDER: tuple[tuple[str, str, float], ...] = (
    ("full", "lora r8", 0.0),
    ("lora r8", "lora r8 q,v", 0.0),
    ("lora r8 q,v", "lora r1 q,v", 0.0),
    ("lora r8", "prefix_tuning", 0.0),
    ("prefix_tuning", "prompt_tuning", 0.0),
)
"""Better, worse, by at least so many nats of mean loss per answer token."""


class Methods(Benchmark):
    """Each row of the table is the mean over the seeds; each direction is judged by these means."""

    name: ClassVar[str] = "methods"
    covers: ClassVar[str] = "C"
    question: ClassVar[str] = "Do all methods learn, in the order that the literature gives them?"
    goes_on: ClassVar[bool] = True

    def measure(self, conditions: Conditions) -> tuple[Finding, ...]:
        if not SHARED.is_dir():
            raise SkippedError("the shared model and data are not beside the repository")
        runs = Runs(conditions)
        every = runs.experiment("every-method", yaml.safe_load(_EXPERIMENT.read_text(encoding="utf-8")))
        by_kind = rows_by_name(every)
        by_kind |= taught(runs, by_kind)
        return (
            *(told(name, rows) for name, rows in by_kind.items()),
            *directions(by_kind),
            *depths(by_kind),
            *fused(runs, by_kind),
        )


class Runs:
    """Experiments of one benchmark, in a folder of their own."""

    def __init__(self, conditions: Conditions) -> None:
        self._folder = conditions.scratch
        self._seeds = list(range(conditions.repeats))
        self._steps = conditions.size(300, 4)
        self._rows = conditions.size(100, 8)

    def experiment(self, name: str, content: Mapping[str, Any]) -> Comparison:
        """Run it over the seeds, and read its report."""
        training = {**content["training"], "max_steps": self._steps, "save_steps": self._steps, "seeds": self._seeds}
        data = {**content["data"], "max_eval_rows": self._rows}
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**content, "name": name, "training": training, "data": data}), encoding="utf-8")
        runs = self._folder / "runs"
        places = {"TUNELINE_RUNS": str(runs), "MLFLOW_TRACKING_URI": f"sqlite:///{self._folder / 'mlflow.db'}"}
        seconds_of(tuneline("run", str(path)), ROOT, environment(self._folder) | places)
        return Comparison.model_validate_json(
            (runs / "reports" / name / "comparison" / "comparison.json").read_text(encoding="utf-8")
        )


def rows_by_name(comparison: Comparison) -> dict[str, list[ComparisonRow]]:
    """Name of a method -> its rows, one per seed; the best name first."""
    found: dict[str, list[ComparisonRow]] = {}
    for row in comparison.rows:
        found.setdefault(row.label.rpartition(" seed ")[0] or row.label, []).append(row)
    return found


def mean_loss(rows: Sequence[ComparisonRow]) -> float:
    return fmean(row.metrics["loss"] for row in rows)


def told(name: str, rows: Sequence[ComparisonRow]) -> Finding:
    """A method's line: quality, trainable parameters, time, memory."""
    losses = [row.metrics["loss"] for row in rows]
    spread = f" ± {stdev(losses):.3f}" if len(losses) > 1 else ""
    said = [f"loss {fmean(losses):.3f}{spread}"]
    if "bleu" in rows[0].metrics:
        said.append(f"bleu {fmean(row.metrics['bleu'] for row in rows):.1f}")
    if rows[0].trainable_parameters:
        said.append(f"{rows[0].trainable_parameters:,} trainable")
        said.append(f"{fmean(row.train_seconds or 0 for row in rows):.0f} s")
        said.append(f"{fmean(row.peak_memory_bytes or 0 for row in rows) / 2**20:.0f} MiB")
    failed = [row.reason for row in rows if row.status == "failed"]
    return Finding(
        name=name,
        done=f"{rows[0].kind}, {len(rows)} seeds",
        saw="; ".join(failed or said),
        verdict="loud" if failed else "right",
        broken=bool(failed),
    )


def directions(rows: Mapping[str, Sequence[ComparisonRow]]) -> list[Finding]:
    """Every tuned method beats the untuned base, and the families stand in their order."""
    losses = {name: mean_loss(of_name) for name, of_name in rows.items()}
    tuned = [name for name, of_name in rows.items() if of_name[0].kind != "none"]
    worst = max(tuned, key=lambda name: losses[name])
    judged = [judge("every tuned method beats the base", losses[worst], losses["none"], f"{worst} is the last")]
    for better, worse, least in ORDER:
        judged.append(judge(f"{better} >= {worse}", losses[better] + least, losses[worse], ""))
    return judged


def judge(claim: str, better: float, worse: float, note: str) -> Finding:
    """Holds where the first loss is below the second."""
    holds = better < worse
    saw = f"{better:.3f} against {worse:.3f}" + (f", {note}" if note else "")
    return Finding(name="", done=claim, saw=saw, verdict="holds" if holds else "does not hold", broken=not holds)


def depths(rows: Mapping[str, Sequence[ComparisonRow]]) -> list[Finding]:
    """What leaving the lowest adapters out costs one that was trained for it, and a plain one."""
    robust, plain = (curve(rows[name]) for name in ("robust drop", "plain drop"))
    sizes = list(robust)
    lost = {size: (robust[size] - robust[sizes[0]], plain[size] - plain[sizes[0]]) for size in sizes[1:]}
    said = "; ".join(f"{size}: +{ours:.3f} against +{theirs:.3f}" for size, (ours, theirs) in lost.items())
    ours, theirs = lost[sizes[-1]]
    return [judge("robust AdapterDrop loses less than a plain adapter", ours, theirs, said)]


def curve(rows: Sequence[ComparisonRow]) -> dict[str, float]:
    """Size -> mean loss over the seeds."""
    return {size: fmean(row.sizes[size]["loss"] for row in rows) for size in rows[0].sizes}


def taught(runs: Runs, here: Mapping[str, Sequence[ComparisonRow]]) -> dict[str, list[ComparisonRow]]:
    """The small LoRA again, with the fully tuned model as its teacher: by its distribution, and by what it writes."""
    first = yaml.safe_load(_EXPERIMENT.read_text(encoding="utf-8"))
    student = {"kind": "lora", "r": 8, "lora_alpha": 16}
    by = {"kind": "distillation", "student": student, "teacher": here["full"][0].run_id}
    methods = [{**by, "name": f"taught by full, {level} level", "level": level} for level in ("token", "sequence")]
    found = rows_by_name(runs.experiment("taught", {**first, "methods": methods}))
    return {name: rows for name, rows in found.items() if rows[0].kind != "none"}


def fused(runs: Runs, here: Mapping[str, Sequence[ComparisonRow]]) -> list[Finding]:
    """On both tasks the fusion of two adapters is no worse than the worse of them."""
    first = yaml.safe_load(_EXPERIMENT.read_text(encoding="utf-8"))
    tasks = {"e2e": first["data"], "maths": {**first["data"], **_OTHER_TASK, "max_seq_length": 512}}
    plain: dict[str, Any] = {"kind": "adapter", "variant": "pfeiffer"}
    stage = {**first, "methods": [plain], "evaluation": {"metrics": ["loss"]}}
    maths = runs.experiment("stage-one-maths", {**stage, "data": tasks["maths"]})
    made = {"e2e": here["pfeiffer"][0].run_id, "maths": trained_rows(maths)[0].run_id}
    found = []
    for task, data in tasks.items():
        methods = [{"kind": "adapter_fusion", "adapters": list(made.values()), "names": list(made)}]
        methods += [{**plain, **_AS_IT_IS, "name": f"of {name}", "init_from": run} for name, run in made.items()]
        compared = rows_by_name(runs.experiment(f"fusion-{task}", {**stage, "data": data, "methods": methods}))
        losses = {name: mean_loss(rows) for name, rows in compared.items()}
        alone = {name: losses[f"of {name}"] for name in made}
        note = ", ".join(f"{name} alone {loss:.3f}" for name, loss in alone.items())
        claim = f"fusion >= the worse of its two adapters on {task}"
        found.append(judge(claim, losses["adapter_fusion"], max(alone.values()), note))
    return found


def trained_rows(comparison: Comparison) -> list[ComparisonRow]:
    return [row for row in comparison.rows if row.kind != "none"]
