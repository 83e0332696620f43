from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.data.settings import DataSettings
from tasks.evaluation import EvaluationJob, EvaluationSettings, evaluation_key
from tasks.methods import Candidate
from tasks.models import BaseModel
from tests.evaluation.worlds import job_on, write_csv


@pytest.fixture(scope="module")
def job(tiny: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> EvaluationJob:
    folder = tmp_path_factory.mktemp("key")
    rows = [(f"prompt {n}", f"answer {n}") for n in range(9)]
    data = DataSettings(train=str(write_csv(folder / "t.csv", rows)), eval_fraction=0.4)
    return job_on(tiny, data, EvaluationSettings(metrics=("loss", "bleu")), folder / "job")


def tuned(job: EvaluationJob, **method: Any) -> EvaluationJob:
    candidate = Candidate(
        label="lora",
        base=job.candidate.base,
        method={"kind": "lora", **method},
        weights=Path("somewhere"),
        holds="adapter",
    )
    return job.model_copy(update={"candidate": candidate})


def merged(job: EvaluationJob) -> EvaluationJob:
    return job.model_copy(update={"candidate": job.candidate.model_copy(update={"holds": "model"})})


def with_settings(job: EvaluationJob, **changes: Any) -> EvaluationJob:
    return job.model_copy(update={"settings": job.settings.model_copy(update=changes)})


def test_the_untuned_base_has_one_key_whatever_it_is_called(job: EvaluationJob) -> None:
    renamed = job.candidate.model_copy(update={"label": "zero-shot", "method": {"kind": "none", "name": "zero-shot"}})
    assert evaluation_key(job.model_copy(update={"candidate": renamed}), "") == evaluation_key(job, "")


def test_showing_more_samples_or_ordering_the_metrics_keeps_the_key(job: EvaluationJob) -> None:
    assert evaluation_key(with_settings(job, samples=9, metrics=("bleu", "loss")), "") == evaluation_key(job, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_new_tokens": 9},
        {"batch_size": 4},
        {"metrics": ("loss",)},
        {"labels": ("a", "b")},
        {"probe": "embedded:probe"},
        {"probe_tokens": 99},
    ],
    ids=str,
)
def test_every_setting_that_decides_a_score_changes_the_key(job: EvaluationJob, changes: dict[str, Any]) -> None:
    assert evaluation_key(with_settings(job, **changes), "") != evaluation_key(job, "")


def test_other_weights_another_base_or_other_data_change_the_key(job: EvaluationJob) -> None:
    base = job.candidate.base.model_copy(update={"digest": "0" * 64})
    other_base = job.model_copy(update={"candidate": job.candidate.model_copy(update={"base": base})})
    artifact = job.tokens.artifact.model_copy(update={"digest": "0" * 64})
    other_tokens = job.model_copy(update={"tokens": job.tokens.model_copy(update={"artifact": artifact})})
    keys = {
        evaluation_key(job, ""),
        evaluation_key(other_base, ""),
        evaluation_key(other_tokens, ""),
        evaluation_key(tuned(job), "a"),
        evaluation_key(tuned(job), "b"),
    }
    assert len(keys) == 5


def test_what_an_adapter_does_is_in_the_key_and_how_it_trained_is_not(job: EvaluationJob) -> None:
    key = evaluation_key(tuned(job, r=8, lora_alpha=16, learning_rate=1e-3), "w")
    assert evaluation_key(tuned(job, r=8, lora_alpha=16, learning_rate=1e-2, name="x"), "w") == key
    assert evaluation_key(tuned(job, r=8, lora_alpha=32, learning_rate=1e-3), "w") != key


def test_a_merged_model_has_its_key_from_its_weights_alone(job: EvaluationJob) -> None:
    key = evaluation_key(merged(tuned(job, r=8)), "w")
    assert evaluation_key(merged(tuned(job, r=16)), "w") == key
    assert evaluation_key(tuned(job, r=8), "w") != key


def test_the_folder_of_the_weights_is_not_part_of_the_key(job: EvaluationJob) -> None:
    one = tuned(job)
    moved = one.model_copy(update={"candidate": one.candidate.model_copy(update={"weights": Path("elsewhere")})})
    assert evaluation_key(moved, "w") == evaluation_key(one, "w")
