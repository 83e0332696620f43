from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from tasks.artifacts import Artifact
from tasks.data.settings import DataSettings
from tasks.evaluation import EvaluationJob, EvaluationSettings, Prediction, Scores, read_predictions
from tasks.evaluation.evaluate import evaluate, read_evaluated
from tasks.foundation.errors import ConfigError, DataError
from tasks.methods import Candidate
from tasks.models import BaseModel
from tests.evaluation.worlds import (
    E2E_DEV,
    STORIES,
    base_in,
    ignore_progress,
    job_on,
    load_kind,
    needs_e2e,
    needs_stories,
    write_csv,
    write_texts,
)

TRAIN = [("nice soup", "good"), ("cold soup", "bad"), ("warm bread", "good")]
EVAL = [("nice tea", "good"), ("cold tea", "bad"), ("cold tea", "good"), ("stale cake with flies", "bad")]
EVERYTHING = ("loss", "perplexity", "exact_match", "bleu", "chrf", "rouge", "accuracy", "f1")


def reviews(base: BaseModel, folder: Path, **settings: object) -> EvaluationJob:
    folder.mkdir(exist_ok=True)
    data = DataSettings(
        train=str(write_csv(folder / "train.csv", TRAIN)),
        eval=str(write_csv(folder / "eval.csv", EVAL)),
        max_seq_length=64,
    )
    chosen = {"metrics": EVERYTHING, "max_new_tokens": 8, "batch_size": 3, **settings}
    return job_on(base, data, EvaluationSettings.model_validate(chosen), folder)


def run(job: EvaluationJob, folder: Path) -> tuple[Scores, list[Prediction]]:
    folder.mkdir()
    scores = evaluate(job, folder, ignore_progress)
    return scores, list(read_predictions(folder))


def adapted(base: BaseModel, kind: str, folder: Path, **method: object) -> Candidate:
    """The base with a random adapter of this kind, saved as training would."""
    load_kind(base, kind).model.save_pretrained(folder)
    return Candidate(label=kind, base=base, method={"kind": kind, **method}, weights=folder, holds="adapter")


def test_the_per_example_file_sums_to_the_aggregates(tiny: BaseModel, tmp_path: Path) -> None:
    scores, lines = run(reviews(tiny, tmp_path / "job"), tmp_path / "out")
    rows = [row for line in lines for row in line.rows]
    assert scores.rows == len(rows) == 4
    assert scores.prompts == len(lines) == 3
    tokens, total = sum(row.tokens or 0 for row in rows), sum(row.loss_sum or 0.0 for row in rows)
    assert scores.metrics["loss"] == pytest.approx(total / tokens)
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(total / tokens))
    for metric in ("exact_match", "accuracy"):
        assert scores.metrics[metric] == pytest.approx(sum(line.scores[metric] for line in lines) / 3), metric
    assert scores.metrics["rougeL"] == pytest.approx(sum(line.scores["rouge"] for line in lines) / 3)
    assert [row.scores["loss"] for row in rows] == [(row.loss_sum or 0.0) / (row.tokens or 1) for row in rows]


def test_a_prompt_with_two_accepted_labels_is_right_with_either(tiny: BaseModel, tmp_path: Path) -> None:
    _, lines = run(reviews(tiny, tmp_path / "job"), tmp_path / "out")
    (both,) = [line for line in lines if len(line.rows) == 2]
    assert set(both.references) == {"good", "bad"}
    assert both.scores["accuracy"] == 1.0
    assert both.label == both.chosen


def test_the_same_job_twice_gives_the_same_bytes(tiny: BaseModel, tmp_path: Path) -> None:
    job = reviews(tiny, tmp_path / "job")
    for name in ("one", "two"):
        run(job, tmp_path / name)
    for file in ("scores.json", "predictions.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_model_runs_on_one_thread_and_the_callers_number_comes_back(tiny: BaseModel, tmp_path: Path) -> None:
    seen: set[int] = set()
    torch.set_num_threads(2)
    evaluate(reviews(tiny, tmp_path), tmp_path, lambda done, total: seen.add(torch.get_num_threads()))
    assert seen == {1}
    assert torch.get_num_threads() == 2


def test_a_job_crosses_a_process_boundary_as_text(tiny: BaseModel, tmp_path: Path) -> None:
    job = reviews(tiny, tmp_path / "job")
    assert EvaluationJob.model_validate_json(job.model_dump_json()) == job


def test_only_what_the_metrics_need_is_asked(tiny: BaseModel, tmp_path: Path) -> None:
    scores, lines = run(reviews(tiny, tmp_path / "job", metrics=("loss",)), tmp_path / "out")
    assert set(scores.metrics) == {"loss", "perplexity"}
    assert {(line.prediction, line.chosen) for line in lines} == {(None, None)}
    _, lines = run(reviews(tiny, tmp_path / "other", metrics=("exact_match",)), tmp_path / "more")
    assert {row.loss_sum for line in lines for row in line.rows} == {None}


def test_progress_ends_at_the_whole(tiny: BaseModel, tmp_path: Path) -> None:
    probe = tmp_path / "probe.txt"
    probe.write_text("x" * 100)
    job = reviews(tiny, tmp_path / "job", probe=str(probe))
    steps: list[tuple[int, int]] = []
    (tmp_path / "out").mkdir()
    evaluate(job, tmp_path / "out", lambda done, total: steps.append((done, total)))
    whole = 4 + 3 + 3 * 2 + 2  # rows, prompts, prompts x labels, windows of at most 64 tokens
    assert steps[0] == (0, whole)
    assert steps[-1] == (whole, whole)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_the_probe_loss_is_the_loss_per_token_of_its_windows(tiny: BaseModel, tmp_path: Path) -> None:
    probe = tmp_path / "probe.txt"
    probe.write_text("The moon is round. " * 5)
    scores, _ = run(reviews(tiny, tmp_path / "job", probe=str(probe), probe_tokens=70), tmp_path / "out")
    loaded = load_kind(tiny, "none")
    ids = loaded.tokenizer(probe.read_text())["input_ids"][:70]
    total = 0.0
    for window in (ids[:64], ids[64:]):
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([window])).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="sum"))
    assert scores.probe_loss == pytest.approx(total / (63 + 5), rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "prompt_tuning", "prefix_tuning"])
def test_a_saved_adapter_is_evaluated_not_its_base(tiny: BaseModel, tmp_path: Path, kind: str) -> None:
    job = reviews(tiny, tmp_path / "job", metrics=("loss", "exact_match"))
    base, _ = run(job, tmp_path / "base")
    tuned = job.model_copy(update={"candidate": adapted(tiny, kind, tmp_path / "adapter")})
    scores, _ = run(tuned, tmp_path / "tuned")
    assert abs(scores.metrics["loss"] - base.metrics["loss"]) > 1e-3
    assert scores.rows_digest == base.rows_digest


def test_a_chinese_reference_switches_the_tokenizer_and_the_signature_is_kept(tiny: BaseModel, tmp_path: Path) -> None:
    data = DataSettings(
        train=str(write_csv(tmp_path / "t.csv", [("汤", "汤很好")])),
        eval=str(write_csv(tmp_path / "e.csv", [("茶", "茶很好喝"), ("饭", "饭不好")])),
    )
    job = job_on(tiny, data, EvaluationSettings(metrics=("bleu",), max_new_tokens=4), tmp_path / "job")
    scores, _ = run(job, tmp_path / "out")
    assert "tok:zh" in scores.signatures["bleu"]


def test_raw_text_has_a_loss_and_no_answers(tiny: BaseModel, tmp_path: Path) -> None:
    data = DataSettings(
        train=str(write_texts(tmp_path / "t.jsonl", ["once there was", "a dog ran"])),
        eval=str(write_texts(tmp_path / "e.jsonl", ["a cat slept", "the end"])),
    )
    job = job_on(tiny, data, EvaluationSettings(metrics=("loss",)), tmp_path / "job")
    scores, lines = run(job, tmp_path / "out")
    assert scores.rows == 2
    assert [line.references for line in lines] == [("a cat slept",), ("the end",)]
    asks = job.model_copy(update={"settings": EvaluationSettings(metrics=("loss", "bleu"))})
    with pytest.raises(DataError, match="raw text without prompts"):
        run(asks, tmp_path / "no")


def test_an_unknown_metric_is_refused(tiny: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no metric 'blew'.*Did you mean bleu\?"):
        run(reviews(tiny, tmp_path / "job", metrics=("blew",)), tmp_path / "out")


def test_samples_are_the_same_prompts_for_every_cell_and_grow_with_their_number(
    tiny: BaseModel, tmp_path: Path
) -> None:
    run(reviews(tiny, tmp_path / "job"), tmp_path / "out")
    artifact = Artifact(step="evaluate", key="k", path=tmp_path / "out", digest="d")
    two, three = read_evaluated(artifact, 2).samples, read_evaluated(artifact, 9).samples
    assert three[:2] == two
    assert len(three) == 3
    assert [sample.id for sample in three] == sorted(sample.id for sample in three)
    assert read_evaluated(artifact, 0).samples == ()


@needs_stories
@needs_e2e
def test_the_first_100_dev_rows_of_e2e_are_8_prompts_with_all_their_references(tmp_path: Path) -> None:
    with E2E_DEV.open(encoding="utf-8", newline="") as file:
        dev = [(row["mr"], row["ref"]) for row in list(csv.DictReader(file))[:100]]
    data = DataSettings(
        train=str(write_csv(tmp_path / "t.csv", [("name[X]", "X is a pub.")])),
        eval=str(write_csv(tmp_path / "e.csv", dev)),
        max_seq_length=384,
    )
    settings = EvaluationSettings(metrics=("loss", "slot_f1", "bleu"), max_new_tokens=16)
    scores, lines = run(job_on(base_in(STORIES), data, settings, tmp_path / "job"), tmp_path / "out")
    assert scores.prompts == len(lines) == 8
    assert scores.rows == len(set(dev))
    for line in lines:
        assert set(line.references) == {reference.strip() for prompt, reference in dev if prompt == line.prompt}
    assert "nrefs:var" in scores.signatures["bleu"]
    assert 3.5 < scores.metrics["loss"] < 5.0
