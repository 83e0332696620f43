"""Hard prompts: the untuned base asked behind examples of the training rows, or in other words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.data.settings import DataSettings
from tasks.evaluation import EvaluationJob, EvaluationSettings, Prediction, Scores, evaluation_key, read_predictions
from tasks.evaluation import loaded as loading
from tasks.evaluation.choices import label_rows
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.generation import prompts_of
from tasks.evaluation.loaded import load
from tasks.evaluation.reading import read_suite
from tasks.evaluation.shots import choose_examples, word
from tasks.foundation.errors import ConfigError, DataError
from tasks.methods import Prompting, parse_method
from tasks.models import BaseModel
from tests.data.worlds import CHATML
from tests.evaluation.worlds import CONTEXT, base_in, ignore_progress, job_on, save_tiny_model, write_csv

TRAIN = [(f"q{number}", f"a{number}") for number in range(8)]
EVAL = [("tea", "good"), ("cake", "bad"), ("cake", "fine")]
EVERY = frozenset({"likelihood", "generation", "choice"})


def asked_by(base: BaseModel, folder: Path, method: dict[str, Any], **data: Any) -> EvaluationJob:
    """The base with a hard prompt, on eight training rows and three evaluation rows."""
    folder.mkdir(exist_ok=True)
    rows = data.pop("rows", TRAIN)
    settings = DataSettings(
        train=str(write_csv(folder / "train.csv", rows)),
        eval=str(write_csv(folder / "eval.csv", data.pop("asked", EVAL))),
        **{"max_seq_length": 64, **data},
    )
    measured = EvaluationSettings(metrics=("loss", "exact_match", "accuracy"), max_new_tokens=6, labels=("good", "bad"))
    job = job_on(base, settings, measured, folder)
    candidate = job.candidate.model_copy(update={"method": {"kind": "none", **method}, "label": "few"})
    return job.model_copy(update={"candidate": candidate})


def texts(job: EvaluationJob) -> dict[str, str]:
    """Evaluation row's answer -> the whole text that it is measured in."""
    loaded = load(job)
    suite = read_suite(job, EVERY)
    found = {row.id: loaded.tokenizer.decode(row.input_ids) for row in word(loaded, job, suite, EVERY).rows}
    return {row.answer: found[row.id] for row in suite.rows}


def run(job: EvaluationJob, folder: Path) -> tuple[Scores, list[Prediction]]:
    folder.mkdir()
    scores = evaluate(job, folder, ignore_progress)
    return scores, list(read_predictions(folder))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """The tiny model with a chat template."""
    folder = save_tiny_model(tmp_path_factory.mktemp("chatty"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHATML}))
    return base_in(folder)


def test_examples_stand_in_front_of_every_question_in_the_rendering_of_training(
    tiny: BaseModel, tmp_path: Path
) -> None:
    found = texts(asked_by(tiny, tmp_path, {"shots": 2}, template="Q: {prompt} A: {completion};"))
    one, two, _ = found["good"].split("\n\n")
    assert one.startswith("Q: q") and one.endswith("</s>;")
    assert one.replace("Q: q", "").replace(" A: a", "")[0] == one.replace("Q: q", "").replace(" A: a", "")[1]
    assert found["good"] == f"{one}\n\n{two}\n\nQ: tea A: good</s>"
    assert found["fine"] == f"{one}\n\n{two}\n\nQ: cake A: fine</s>"


def test_the_separator_is_a_setting(tiny: BaseModel, tmp_path: Path) -> None:
    found = texts(asked_by(tiny, tmp_path, {"shots": 1, "shots_separator": "\n---\n"}))
    assert found["good"].endswith("</s>\n---\ntea\ngood</s>")


def test_under_a_chat_template_examples_are_earlier_turns(chatty: BaseModel, tmp_path: Path) -> None:
    found = texts(asked_by(chatty, tmp_path, {"shots": 1}))["good"]
    example, question = found.split("<|im_end|>\n<|im_start|>user\ntea")
    assert example.startswith("<|im_start|>user\nq") and "<|im_start|>assistant\na" in example
    assert question.startswith("<|im_end|>\n<|im_start|>assistant\ngood</s>")


def test_under_a_chat_template_a_separator_is_refused_before_the_model_is_loaded(
    chatty: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = asked_by(chatty, tmp_path, {"shots": 1, "shots_separator": "-"})
    monkeypatch.delattr(loading, "load_candidate")
    with pytest.raises(ConfigError, match=r"methods\[few\]\.shots_separator: the tokenizer's chat template") as caught:
        load(job)
    assert caught.value.exit_code == 10


def test_a_template_of_its_own_replaces_that_of_the_data_and_the_chat_template(
    tiny: BaseModel, chatty: BaseModel, tmp_path: Path
) -> None:
    own = {"template": "Review: {prompt}. Verdict: {completion}"}
    for name, base in (("plain", tiny), ("chat", chatty)):
        assert texts(asked_by(base, tmp_path / name, own))["good"] == "Review: tea. Verdict: good</s>"


def test_the_loss_is_of_the_answer_alone_given_what_stands_before_it(tiny: BaseModel, tmp_path: Path) -> None:
    job = asked_by(tiny, tmp_path / "job", {"shots": 3})
    _, lines = run(job, tmp_path / "out")
    loaded = load(job)
    tea = next(line for line in lines if line.prompt == "tea")
    ids = loaded.tokenizer(texts(job)["good"].removesuffix("</s>"))["input_ids"] + [256]
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([ids])).logits[0, :-1]
    answer = len("good") + 1
    expected = torch.nn.functional.cross_entropy(logits[-answer:], torch.tensor(ids[-answer:]), reduction="sum")
    assert tea.rows[0].tokens == answer
    assert tea.rows[0].loss_sum == pytest.approx(float(expected), rel=1e-5)


def test_the_prompt_that_is_answered_is_what_the_row_begins_with(
    tiny: BaseModel, chatty: BaseModel, tmp_path: Path
) -> None:
    for name, base in (("plain", tiny), ("chat", chatty)):
        job = asked_by(base, tmp_path / name, {"shots": 2})
        loaded, suite = load(job), read_suite(job, EVERY)
        wording = word(loaded, job, suite, EVERY)
        prompts, _ = prompts_of(loaded, suite.asked, 6, job.data, wording.examples)
        rows = {row.id: row for row in wording.rows}
        for question, prompt in zip(suite.asked, prompts, strict=True):
            row = rows[question.rows[0].id]
            masked = row.labels.count(-100)
            assert prompt == row.input_ids[:masked]
            assert set(row.labels[:masked]) == {-100}


def test_labels_are_chosen_behind_the_same_examples(tiny: BaseModel, tmp_path: Path) -> None:
    job = asked_by(tiny, tmp_path, {"shots": 2})
    loaded, suite = load(job), read_suite(job, EVERY)
    labelled = label_rows(loaded, suite.asked, suite.labels, word(loaded, job, suite, EVERY).examples)
    rows = texts(job)
    tea = next(question.id for question in suite.asked if question.text == "tea")
    found = [loaded.tokenizer.decode(row.input_ids) for row in labelled if row.id == tea]
    assert found == [rows["good"], rows["good"].replace("tea\ngood", "tea\nbad")]


def test_answers_and_losses_depend_on_the_examples(tiny: BaseModel, tmp_path: Path) -> None:
    zero, few = (
        run(asked_by(tiny, tmp_path / n, m), tmp_path / f"{n}-out") for n, m in (("0", {}), ("4", {"shots": 4}))
    )
    assert few[0].metrics["loss"] != zero[0].metrics["loss"]
    assert [line.prediction for line in few[1]] != [line.prediction for line in zero[1]]
    assert few[0].rows_digest == zero[0].rows_digest
    assert [line.prompt for line in few[1]] == [line.prompt for line in zero[1]]


def test_zero_shots_without_a_template_are_the_untuned_base_to_the_last_bit(tiny: BaseModel, tmp_path: Path) -> None:
    plain = asked_by(tiny, tmp_path / "job", {})
    own = plain.candidate.model_copy(update={"method": {"kind": "none", "template": plain.data.template}})
    files = []
    for name, job in (("plain", plain), ("own", plain.model_copy(update={"candidate": own}))):
        run(job, tmp_path / name)
        files.append((tmp_path / name / "predictions.jsonl").read_bytes())
    assert files[0] == files[1]


def test_the_choice_follows_the_seed_and_the_content_not_the_order_of_the_file(tiny: BaseModel, tmp_path: Path) -> None:
    chosen = []
    for name, rows, seed in (("a", TRAIN, 0), ("b", TRAIN[::-1], 0), ("c", TRAIN, 1)):
        job = asked_by(tiny, tmp_path / name, {}, rows=rows)
        suite = read_suite(job, {"likelihood"})
        chosen.append([row.id for row in choose_examples(job, suite, Prompting(shots=4, seed=seed))])
    assert chosen[0] == chosen[1] != chosen[2]


def test_more_shots_add_to_fewer_and_each_has_another_prompt(tiny: BaseModel, tmp_path: Path) -> None:
    job = asked_by(tiny, tmp_path, {}, rows=[*TRAIN, *[(prompt, "else") for prompt, _ in TRAIN]])
    suite = read_suite(job, {"likelihood"})
    two, eight = (choose_examples(job, suite, Prompting(shots=count)) for count in (2, 8))
    assert eight[:2] == two
    assert len({row.prompt for row in eight}) == 8


def test_no_example_asks_what_is_asked_even_where_leaks_are_only_reported(tiny: BaseModel, tmp_path: Path) -> None:
    rows = [*TRAIN[:2], ("tea", "good"), ("cake ", "lovely")]
    job = asked_by(tiny, tmp_path, {"shots": 3}, rows=rows, on_leak="report")
    with pytest.raises(DataError, match=r"3 examples are asked for, and the training rows hold 2 different prompts"):
        texts(job)


def test_examples_that_do_not_fit_are_left_out_from_the_front_and_counted(tiny: BaseModel, tmp_path: Path) -> None:
    rows = [(f"{number}" * 30, "a") for number in range(4)]
    asked = [("tea", "good"), ("c" * 50, "bad")]
    job = asked_by(tiny, tmp_path / "job", {"shots": 4}, rows=rows, asked=asked)
    scores, _ = run(job, tmp_path / "out")
    four = [row.prompt[0].content for row in choose_examples(job, read_suite(job, EVERY), Prompting(shots=4))]
    found = texts(job)
    assert all(prompt in found["good"] for prompt in four)
    assert [prompt in found["bad"] for prompt in four] == [False, False, True, True]
    assert scores.shots is not None
    assert (scores.shots.asked, scores.shots.dropped, scores.shots.short_prompts) == (4, 2, 1)
    assert len(scores.shots.rows) == 4


def test_a_question_with_its_examples_and_its_longest_answer_fits_exactly(tiny: BaseModel, tmp_path: Path) -> None:
    example = len("e" * 10) + 1 + len("a") + 1 + 2  # prompt, line break, answer, end token, separator
    longest = CONTEXT - example - 1 - 6  # line break, new tokens
    for length, kept in ((longest, True), (longest + 1, False)):
        asked = [("tea", "good"), ("c" * length, "bad")]
        rows = {"rows": [("e" * 10, "a")], "asked": asked, "max_seq_length": CONTEXT}
        job = asked_by(tiny, tmp_path / str(length), {"shots": 1}, **rows)
        assert ("e" * 10 in texts(job)["bad"]) is kept


def test_no_example_that_fits_anywhere_is_refused(tiny: BaseModel, tmp_path: Path) -> None:
    job = asked_by(tiny, tmp_path, {"shots": 1}, rows=[("w" * 50, "a")], asked=[("c" * 55, "bad")])
    settings = job.settings.model_copy(update={"max_new_tokens": 70})
    with pytest.raises(DataError, match="no example fits"):
        texts(job.model_copy(update={"settings": settings}))


def test_a_hard_prompt_has_a_key_of_its_own_and_the_zero_shot_base_keeps_its_own(
    tiny: BaseModel, tmp_path: Path
) -> None:
    job = asked_by(tiny, tmp_path, {})

    def key(**method: Any) -> str:
        candidate = job.candidate.model_copy(update={"method": {"kind": "none", **method}})
        return evaluation_key(job.model_copy(update={"candidate": candidate}), "")

    changes: list[dict[str, Any]] = [
        {},
        {"shots": 2},
        {"shots": 3},
        {"shots": 2, "shots_seed": 1},
        {"shots": 2, "shots_separator": "-"},
        {"template": "{prompt}: {completion}"},
    ]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key(shots=2, name="a") == key(shots=2)
    assert key(shots=0, name="b") == key()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"template": "{prompt}"}, r"template: \{completion\} is missing"),
        ({"template": "{question} {prompt} {completion}"}, r"unknown placeholder \{question\}"),
        ({"shots_seed": 1}, "Set shots, or remove them"),
        ({"shots_separator": "-"}, "Set shots, or remove them"),
        ({"shots": -1}, "shots: Input should be greater than or equal to 0"),
    ],
    ids=str,
)
def test_what_would_say_nothing_or_cannot_be_rendered_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_method({"kind": "none", **settings})
