"""`model.extend_vocabulary` in an experiment: what is refused, with which code and which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.configs.test_checks import World
from tests.configs.worlds import SMALL, refused, written


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refusal(folder: Path, text: str) -> str:
    """The one line for an experiment with this extension."""
    model = f"model: {{name_or_path: some/folder, extend_vocabulary: {text}}}"
    lines = refused(written(folder, SMALL.replace("model: {name_or_path: some/folder}", model)))
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "one of tokens, file, train, tokenizer says which tokens are new, and none of them is given"),
        ("{tokens: [a], file: b.txt}", "and tokens and file are given"),
        ("{tokens: []}", "model.extend_vocabulary.tokens: an empty list does not fit. Allowed: at least 1"),
        ('{tokens: ["  "]}', "model.extend_vocabulary.tokens: a token of nothing but spaces stands for nothing"),
        ("{train: {size: 0}}", "model.extend_vocabulary.train.size: 0 does not fit. Allowed: above 0"),
        ("{train: {}}", "model.extend_vocabulary.train.size: is missing"),
        ("{train: {size: 9, min_count: 0}}", "train.min_count: 0 does not fit. Allowed: above 0"),
        ("{train: {size: 9}, text: []}", "text: names no file. Leave it out to take the training rows of data"),
        ("{train: {size: 9}, steps: -1}", "steps: -1 does not fit. Allowed: at least 0"),
        ("{train: {size: 9}, learning_rate: 0}", "learning_rate: 0 does not fit. Allowed: above 0"),
        ("{train: {size: 9}, lr: 1}", "unknown key. Use learning_rate"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_key(text: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, text).replace("; ", " ")


def problem(world: World, **extension: Any) -> tuple[int, str]:
    return world.one(model={"name_or_path": str(world.model), "extend_vocabulary": extension})


def test_a_sound_extension_has_no_problems(world: World) -> None:
    (world.folder / "t.txt").write_text("Wildwood")
    extension = {"file": str(world.folder / "t.txt"), "text": [str(world.folder / "t.txt")]}
    assert world.problems(model={"name_or_path": str(world.model), "extend_vocabulary": extension}) == []


def test_files_that_are_not_there_or_hold_nothing_are_named(world: World) -> None:
    code, text = problem(world, file=str(world.folder / "no.txt"))
    assert code == 11 and "extend_vocabulary.file" in text and "no.txt cannot be read" in text
    (world.folder / "empty.txt").write_text("\n\n")
    code, text = problem(world, train={"size": 5}, text=str(world.folder / "empty.txt"))
    assert code == 11 and "empty.txt is empty" in text
    (world.folder / "latin.txt").write_bytes("café".encode("latin-1"))
    code, text = problem(world, train={"size": 5}, text=str(world.folder / "latin.txt"))
    assert code == 11 and "is not UTF-8 at byte 3" in text


def test_a_folder_without_a_fast_tokenizer_is_refused(world: World) -> None:
    code, text = problem(world, tokenizer=str(world.folder))
    assert code == 10 and "extend_vocabulary.tokenizer" in text and "has no tokenizer.json" in text


def test_a_base_without_a_fast_tokenizer_is_refused_with_what_would_work(world: World) -> None:
    (world.model / "tokenizer.json").rename(world.model / "tokenizer.model")
    code, text = problem(world, tokens=["Wildwood"])
    assert code == 10 and "save_pretrained" in text


def test_only_tokens_that_the_base_has_are_refused(world: World) -> None:
    from tasks.models.weights import read_json
    from tasks.vocabulary.document import vocabulary

    known = list(vocabulary(read_json(world.model / "tokenizer.json")))[:2]
    code, text = problem(world, tokens=known)
    assert code == 10 and "the base has every token that is named (2)" in text
    assert (
        world.problems(model={"name_or_path": str(world.model), "extend_vocabulary": {"tokens": [*known, "qqq"]}}) == []
    )


def test_an_extension_of_the_embedded_model_and_of_a_hub_model_is_left_to_the_start_of_the_run(world: World) -> None:
    extension = {"train": {"size": 5}}
    for model in ({"name_or_path": "embedded:tiny-llama"}, {"name_or_path": "org/name", "revision": "0a" * 20}):
        assert world.problems(model={**model, "extend_vocabulary": extension}) == []
