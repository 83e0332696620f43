"""Quality at every size that a result can be served in, and what a method says of its own result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import pytest
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tasks.artifacts import Artifact
from tasks.evaluation import EvaluatedCell, EvaluationJob, evaluation_key
from tasks.evaluation.evaluate import evaluate, read_evaluated
from tasks.foundation.errors import DivergenceError
from tasks.methods import Method, _registry, all_methods
from tasks.methods.lora import Lora
from tasks.models import BaseModel
from tests.evaluation.test_evaluate import adapted, reviews
from tests.evaluation.worlds import ignore_progress, untuned


class ElasticLora(Lora):
    """LoRA whose layers can be switched off from below: `drop n` leaves out those of the n lowest blocks."""

    kind: Literal["elastic"] = "elastic"  # type: ignore[assignment]
    broken: bool = False
    """Say something that is no number."""

    def sizes(self) -> tuple[str, ...]:
        return ("drop 0", "drop 1", "drop 2")

    def set_size(self, model: nn.Module, size: str) -> None:
        dropped = int(size.split()[1])
        for name, part in model.named_modules():
            if hasattr(part, "lora_A"):
                block = int(name.split("layers.")[1].split(".")[0])
                part.scaling["default"] = 0.0 if block < dropped else self.lora_alpha / self.r

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        seen = list(batches)
        loss = sum(float(model(**batch).loss) for batch in seen)
        rows = sum(batch["labels"].shape[0] for batch in seen)
        answers = sum(int((batch["labels"] != -100).sum()) for batch in seen)
        return {"elastic/rows": rows, "elastic/answers": answers, "elastic/loss": float("nan") if self.broken else loss}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The method is discovered as one in a file of the package would be."""
    found: tuple[type[Method], ...] = (*all_methods(), ElasticLora)
    monkeypatch.setattr(_registry, "all_methods", lambda: found)
    yield


def elastic(base: BaseModel, folder: Path, **settings: object) -> EvaluationJob:
    """A random LoRA of rank 4, to be evaluated as an adapter."""
    job = reviews(base, folder / "job", metrics=("loss", "exact_match"), **settings)
    candidate = adapted(base, "lora", folder / "adapter")
    method = {"kind": "elastic", "r": 4, "lora_alpha": 8}
    return job.model_copy(update={"candidate": candidate.model_copy(update={"method": method})})


def evaluated(job: EvaluationJob, folder: Path) -> EvaluatedCell:
    folder.mkdir()
    evaluate(job, folder, ignore_progress)
    return read_evaluated(Artifact(step="evaluate", key="k", path=folder, digest="d"), 0)


def merged(job: EvaluationJob, folder: Path) -> EvaluationJob:
    """The same candidate after a merge."""
    base = job.candidate.base
    model = AutoModelForCausalLM.from_pretrained(base.path)
    PeftModel.from_pretrained(model, job.candidate.weights).merge_and_unload().save_pretrained(folder)
    whole = job.candidate.model_copy(update={"weights": folder, "holds": "model"})
    return job.model_copy(update={"candidate": whole, "adapter": job.candidate, "adapter_digest": "a"})


def test_the_loss_is_measured_at_every_size_and_the_largest_is_the_result_itself(
    tiny: BaseModel, tmp_path: Path
) -> None:
    cell = evaluated(elastic(tiny, tmp_path), tmp_path / "out")
    assert [size.size for size in cell.sizes] == ["drop 0", "drop 1", "drop 2"]
    losses = [size.metrics["loss"] for size in cell.sizes]
    assert losses[0] == cell.scores.metrics["loss"]
    assert len(set(losses)) == 3
    base = evaluated(reviews(tiny, tmp_path / "base", metrics=("loss",)), tmp_path / "base-out")
    assert losses[2] == pytest.approx(base.scores.metrics["loss"], rel=1e-6)  # nothing of the adapter is left
    assert set(cell.sizes[0].metrics) == {"loss", "perplexity"}


def test_other_metrics_at_every_size_are_a_setting(tiny: BaseModel, tmp_path: Path) -> None:
    cell = evaluated(elastic(tiny, tmp_path, size_metrics=("exact_match", "accuracy")), tmp_path / "out")
    assert [set(size.metrics) for size in cell.sizes] == [{"exact_match", "accuracy"}] * 3


def test_the_method_explains_the_largest_size_on_all_held_out_rows(tiny: BaseModel, tmp_path: Path) -> None:
    job = elastic(tiny, tmp_path, batch_size=4)
    cell = evaluated(job, tmp_path / "out")
    assert (cell.explanation["elastic/rows"], cell.explanation["elastic/answers"]) == (4, 5 + 4 + 5 + 4)
    one_batch = cell.scores.metrics["loss"]  # the four rows are one batch, so that its mean is the score
    assert cell.explanation["elastic/loss"] == pytest.approx(one_batch, rel=1e-5)


def test_a_merged_candidate_is_scored_merged_and_tells_of_its_sizes_unmerged(tiny: BaseModel, tmp_path: Path) -> None:
    job = elastic(tiny, tmp_path)
    whole = evaluated(merged(job, tmp_path / "merged"), tmp_path / "whole")
    apart = evaluated(job, tmp_path / "apart")
    assert (whole.sizes, whole.explanation) == (apart.sizes, apart.explanation)
    assert whole.scores.metrics["loss"] == pytest.approx(apart.scores.metrics["loss"], rel=1e-5)


def test_the_same_candidate_tells_the_same_bytes(tiny: BaseModel, tmp_path: Path) -> None:
    job = elastic(tiny, tmp_path)
    for name in ("one", "two"):
        evaluated(job, tmp_path / name)
    for file in ("sizes.json", "explain.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_method_of_one_size_that_says_nothing_leaves_no_file(tiny: BaseModel, tmp_path: Path) -> None:
    job = reviews(tiny, tmp_path / "job", metrics=("loss",))
    cell = evaluated(
        job.model_copy(update={"candidate": adapted(tiny, "lora", tmp_path / "adapter")}), tmp_path / "out"
    )
    assert (cell.sizes, cell.explanation) == ((), {})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.json", "predictions.jsonl"}


def test_an_explanation_that_is_no_number_fails_the_cell(tiny: BaseModel, tmp_path: Path) -> None:
    job = elastic(tiny, tmp_path)
    broken = job.candidate.model_copy(update={"method": {**job.candidate.method, "broken": True}})
    with pytest.raises(DivergenceError, match="lora: elastic/loss is nan"):
        evaluated(job.model_copy(update={"candidate": broken}), tmp_path / "out")


def test_progress_counts_every_size(tiny: BaseModel, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    (tmp_path / "out").mkdir()
    evaluate(elastic(tiny, tmp_path), tmp_path / "out", lambda done, total: steps.append((done, total)))
    assert {total for _, total in steps} == {4 + 3 + 3 * 4}  # rows, prompts, sizes x rows
    assert steps[-1][0] == steps[-1][1]


def test_what_is_measured_per_size_is_in_the_key_of_those_that_have_sizes(tiny: BaseModel, tmp_path: Path) -> None:
    job = elastic(tiny, tmp_path)
    more = job.model_copy(update={"settings": job.settings.model_copy(update={"size_metrics": ("exact_match",)})})
    assert evaluation_key(more, "w") != evaluation_key(job, "w")
    plain = [each.model_copy(update={"candidate": untuned(tiny)}) for each in (job, more)]
    assert evaluation_key(plain[0], "") == evaluation_key(plain[1], "")


def test_what_was_merged_is_in_the_key_of_a_merged_candidate_that_tells_more(tiny: BaseModel, tmp_path: Path) -> None:
    job = elastic(tiny, tmp_path)
    whole = job.candidate.model_copy(update={"holds": "model"})
    one = job.model_copy(update={"candidate": whole, "adapter": job.candidate, "adapter_digest": "a"})
    assert evaluation_key(one, "w") != evaluation_key(one.model_copy(update={"adapter_digest": "b"}), "w")
    lora = {"kind": "lora", "r": 4}
    plain = one.model_copy(update={"candidate": whole.model_copy(update={"method": lora})})
    assert evaluation_key(plain, "w") == evaluation_key(plain.model_copy(update={"adapter_digest": "b"}), "w")
