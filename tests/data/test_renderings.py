"""Several templates per training row: other tokens in training, the same ones in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.data.renderings import drawn
from tasks.data.settings import DataSettings
from tasks.data.tokenize import tokenize_key
from tasks.data.values import Turn
from tasks.foundation.errors import ConfigError
from tasks.models.values import BaseModel
from tests.data.test_tokenize import rows_with, sequences
from tests.data.worlds import CHATML, base_model, make_tokenizer, pairs, prepared, row, tokenized, write_jsonl

TEMPLATES = ("Q: {prompt} A: {completion}", "{prompt} -> {completion}", "Tell me: {prompt}\n{completion}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_model(make_tokenizer(), tmp_path_factory.mktemp("base"))


def settings(folder: Path, rows: list[Any] | None = None, **fields: Any) -> DataSettings:
    folder.mkdir(exist_ok=True)
    train = write_jsonl(folder / "train.jsonl", pairs(12) if rows is None else rows)
    return DataSettings(train=train, eval=write_jsonl(folder / "eval.jsonl", pairs(3, start=900)), **fields)


def texts(settings: DataSettings, base: BaseModel, folder: Path, side: str = "train") -> dict[str, str]:
    """Id of a sequence -> its text."""
    found = sequences(tokenized(settings, base, folder).artifact, side)
    tokenizer = make_tokenizer()
    return {each["id"]: tokenizer.decode(each["input_ids"]) for each in found}


def test_every_training_row_is_rendered_with_every_template(base: BaseModel, tmp_path: Path) -> None:
    found = texts(settings(tmp_path, pairs(2), templates=TEMPLATES), base, tmp_path)
    assert len(found) == 6
    assert set(found.values()) == {
        f"<s>{text}</s>"
        for n in range(2)
        for text in (
            f"Q: question {n} A: answer {n}",
            f"question {n} -> answer {n}",
            f"Tell me: question {n}\nanswer {n}",
        )
    }


def test_the_renderings_of_a_row_stand_together_under_ids_of_their_own(base: BaseModel, tmp_path: Path) -> None:
    several = list(texts(settings(tmp_path, templates=TEMPLATES), base, tmp_path))
    rows = list(texts(settings(tmp_path, template=TEMPLATES[0]), base, tmp_path))
    assert several == [name for row in rows for name in (row, f"{row}/2", f"{row}/3")]


def test_exactly_the_answer_is_learned_in_every_template(base: BaseModel, tmp_path: Path) -> None:
    found = sequences(tokenized(settings(tmp_path, pairs(1), templates=TEMPLATES), base, tmp_path).artifact)
    learned = [[label for label in each["labels"] if label != -100] for each in found]
    assert {make_tokenizer().decode(ids) for ids in learned} == {"answer 0</s>"}


def test_a_drawn_template_is_one_per_row_and_follows_the_seed_and_the_content(base: BaseModel, tmp_path: Path) -> None:
    def choice(name: str, seed: int, rows: list[dict[str, str]]) -> dict[str, str]:
        chosen = settings(tmp_path / name, rows, templates=TEMPLATES, template_choice="draw", seed=seed)
        return texts(chosen, base, tmp_path / name)

    first = choice("a", 0, pairs(40))
    assert len(first) == 40
    starts = [text.split("question")[0] for text in first.values()]
    assert set(starts) == {"<s>Q: ", "<s>", "<s>Tell me: "}
    assert choice("b", 0, pairs(40)[::-1]) == first
    assert choice("c", 1, pairs(40)) != first


def test_draws_are_even() -> None:
    rows = [row(f"question {n}", "a") for n in range(3000)]
    counts = [sum(drawn(each, 3, 0) == place for each in rows) for place in range(3)]
    assert min(counts) > 900


@pytest.mark.parametrize("choice", ["all", "draw"])
def test_nothing_changes_at_evaluation(base: BaseModel, tmp_path: Path, choice: str) -> None:
    one = settings(tmp_path, template=TEMPLATES[0])
    several = settings(tmp_path, templates=TEMPLATES, template_choice=choice)
    files = [tokenized(each, base, tmp_path).artifact.path / "eval.arrow" for each in (one, several)]
    assert files[0] != files[1]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert several.template == TEMPLATES[0]  # what evaluation, registry and hard prompts read


def test_rows_by_template_are_in_the_report(base: BaseModel, tmp_path: Path) -> None:
    long = {"prompt": "word " * 8, "completion": "a"}
    both = settings(tmp_path, [*pairs(4), long], templates=TEMPLATES[:2], max_seq_length=48)
    report = tokenized(both, base, tmp_path).report
    assert report.templates == 2
    assert report.rows_by_template == {TEMPLATES[0]: 4, TEMPLATES[1]: 5}
    assert (report.train_sequences, report.dropped_rows) == (9, 1)
    single = tokenized(settings(tmp_path, template=TEMPLATES[0]), base, tmp_path).report
    assert (single.templates, single.rows_by_template) == (1, {})


def test_packing_takes_all_renderings_as_rows(base: BaseModel, tmp_path: Path) -> None:
    chosen = settings(tmp_path, templates=TEMPLATES, packing=True, max_seq_length=128)
    found = tokenized(chosen, base, tmp_path)
    rows = sequences(found.artifact)
    assert sum(each["position_ids"].count(0) for each in rows) == found.report.packed_rows == 36
    assert len({each["id"] for each in rows}) == len(rows) < 36


def test_rows_and_what_was_left_out_of_them_stay_as_they_are(base: BaseModel, tmp_path: Path) -> None:
    doubled = [*pairs(5), *pairs(5)]
    reports = [
        prepared(settings(tmp_path, doubled, **each), tmp_path).report for each in ({}, {"templates": TEMPLATES})
    ]
    assert reports[0] == reports[1]
    assert reports[0].duplicate_rows == 5


def test_raw_text_beside_prompts_is_trained_on_once(base: BaseModel, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "text.jsonl", [{"text": "One day."}])
    mixed = DataSettings.model_validate(
        {
            "train": [
                {"path": write_jsonl(tmp_path / "train.jsonl", pairs(2))},
                {"path": str(tmp_path / "text.jsonl")},
            ],
            "eval": write_jsonl(tmp_path / "eval.jsonl", pairs(2, start=900)),
            "templates": TEMPLATES,
        }
    )
    assert list(texts(mixed, base, tmp_path).values()).count("<s>One day.</s>") == 1


def test_templates_for_raw_text_alone_are_refused(base: BaseModel, tmp_path: Path) -> None:
    rows = [{"text": f"day {n}"} for n in range(3)]
    with pytest.raises(
        ConfigError, match=r"data\.templates: the training rows are raw text, which no template changes"
    ):
        tokenized(settings(tmp_path, rows, templates=TEMPLATES), base, tmp_path)


def test_templates_that_a_chat_template_would_not_use_are_refused(tmp_path: Path) -> None:
    chatty = base_model(make_tokenizer(CHATML), tmp_path / "base")
    with pytest.raises(ConfigError, match=r"data\.templates: .*Set data\.use_chat_template: false") as caught:
        tokenized(settings(tmp_path, templates=TEMPLATES), chatty, tmp_path)
    assert caught.value.exit_code == 10
    off = settings(tmp_path, templates=TEMPLATES, use_chat_template=False)
    assert tokenized(off, chatty, tmp_path).report.templates == 3


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"templates": ["{prompt}{completion}", "{prompt}"]}, r"templates\.1\n.*\{completion\} is missing"),
        ({"templates": ["{prompt}{completion}", "{what}{prompt}{completion}"]}, r"unknown placeholder \{what\}"),
        ({"templates": [TEMPLATES[0], TEMPLATES[0]]}, "holds one template twice"),
        ({"templates": TEMPLATES, "template": TEMPLATES[1]}, "template and templates are both set"),
        ({"templates": TEMPLATES[:1], "template_choice": "draw"}, "needs several"),
        ({"template_choice": "draw"}, "needs several"),
        ({"templates": "{prompt}{completion}"}, "templates"),
    ],
    ids=str,
)
def test_templates_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        DataSettings(train="-", **fields)


def test_settings_with_templates_survive_the_trip_through_json() -> None:
    chosen = DataSettings(train="-", templates=TEMPLATES)
    assert DataSettings.model_validate_json(chosen.model_dump_json()) == chosen


def test_templates_their_choice_and_the_seed_of_a_draw_decide_the_key(base: BaseModel) -> None:
    def key(**fields: Any) -> str:
        return tokenize_key(rows_with("a"), base, DataSettings(train="-", **fields))

    changes: list[dict[str, Any]] = [
        {"template": TEMPLATES[0]},
        {"templates": TEMPLATES[:2]},
        {"templates": TEMPLATES},
        {"templates": TEMPLATES, "template_choice": "draw"},
        {"templates": TEMPLATES, "template_choice": "draw", "seed": 1},
    ]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key(templates=TEMPLATES, seed=1) == key(templates=TEMPLATES)


def test_a_conversation_keeps_one_template_from_its_first_turn_to_its_last(base: BaseModel, tmp_path: Path) -> None:
    turns = [Turn(role="user", content="a"), Turn(role="assistant", content="b")] * 2
    rows = [{"messages": [turn.model_dump() for turn in turns]}]
    found = texts(settings(tmp_path, rows, templates=TEMPLATES[:2]), base, tmp_path)
    assert set(found.values()) == {"<s>Q: a A: b</s>Q: a A: b</s>", "<s>a -> b</s>a -> b</s>"}
