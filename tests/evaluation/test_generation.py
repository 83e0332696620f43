from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tasks.data.settings import DataSettings
from tasks.data.values import EvalRow, Turn
from tasks.evaluation import EvaluationSettings
from tasks.evaluation.generation import greedy_answers, prompts_of
from tasks.evaluation.loaded import Loaded
from tasks.evaluation.suite import Question, group_questions
from tasks.foundation.errors import DataError
from tasks.models import BaseModel
from tests.evaluation.worlds import ADAPTERS, CONTEXT, PLAIN, STORIES, base_in, load_kind, needs_stories

SETTINGS = EvaluationSettings(max_new_tokens=12, batch_size=3)
PROMPTS = [[70], [5, 9, 17, 44, 3, 80, 81], [5, 9], [100, 101, 102, 103], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]]


def step_by_step(loaded: Loaded, prompt: list[int]) -> list[int]:
    """The most likely next token, again and again, without cache, batch or padding: what training saw."""
    tokens = list(prompt)
    for _ in range(SETTINGS.max_new_tokens):
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            best = int(loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].argmax())
        if best in loaded.renderer.end_token_ids:
            break
        tokens.append(best)
    return tokens[len(prompt) :]


def text_of(loaded: Loaded, tokens: list[int]) -> str:
    return str(loaded.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def answers_of(loaded: Loaded, prompts: list[list[int]], settings: EvaluationSettings = SETTINGS) -> list[str]:
    with torch.inference_mode():
        return greedy_answers(loaded, prompts, settings, lambda _: None)


def question(text: str) -> tuple[Question, ...]:
    turns = (Turn(role="user", content=text), Turn(role="assistant", content="a"))
    return group_questions([EvalRow(id="1", turns=turns)])


@pytest.mark.parametrize("kind", ["none", *ADAPTERS])
def test_a_padded_batch_answers_as_one_prompt_alone_does(tiny: BaseModel, kind: str) -> None:
    loaded = load_kind(tiny, kind)
    alone = [text_of(loaded, step_by_step(loaded, prompt)) for prompt in PROMPTS]
    assert answers_of(loaded, PROMPTS) == alone
    assert len(set(alone)) > 3


@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if kind != "lora"])
def test_the_adapter_changes_the_answers(tiny: BaseModel, kind: str) -> None:
    assert answers_of(load_kind(tiny, kind), PROMPTS) != answers_of(load_kind(tiny, "none"), PROMPTS)


@needs_stories
def test_batches_equal_model_generate_one_by_one_on_the_real_model() -> None:
    loaded = load_kind(base_in(STORIES), "none")
    texts = ["Once upon a time", "Lily", "The dog ran to the park and", "One day, a boy named Tim saw a big red"]
    prompts = [loaded.tokenizer(text)["input_ids"] for text in texts]
    settings = EvaluationSettings(max_new_tokens=40, batch_size=4)
    greedy = {"do_sample": False, "num_beams": 1, "max_new_tokens": 40, "pad_token_id": 2}
    direct = [loaded.model.generate(input_ids=torch.tensor([prompt]), **greedy)[0] for prompt in prompts]
    expected = [text_of(loaded, whole[len(prompt) :]) for whole, prompt in zip(direct, prompts, strict=True)]
    assert answers_of(loaded, prompts, settings) == expected


@pytest.mark.parametrize("kind", ["none", "prompt_tuning"])
def test_an_answer_stops_at_the_trained_end_token(tiny: BaseModel, kind: str) -> None:
    loaded = load_kind(tiny, kind)
    whole = step_by_step(loaded, PROMPTS[1])
    end = whole[4]

    class EndsThere:
        end_token_ids = (end,)

    cut = answers_of(loaded._replace(renderer=EndsThere()), PROMPTS)[1]
    assert cut == text_of(loaded, whole[: whole.index(end)])
    assert cut != text_of(loaded, whole)


def test_the_models_own_generation_config_changes_nothing(tiny: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "sampling"
    shutil.copytree(tiny.path, folder)
    own = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "min_new_tokens": 12, "num_beams": 3}
    (folder / "generation_config.json").write_text(json.dumps(own))
    for kind in ("none", "lora", "prompt_tuning"):
        expected = answers_of(load_kind(tiny, kind), PROMPTS)
        assert answers_of(load_kind(base_in(folder), kind), PROMPTS) == expected, kind


def test_a_prompt_without_room_for_its_answer_is_refused(tiny: BaseModel) -> None:
    room = CONTEXT - SETTINGS.max_new_tokens
    loaded = load_kind(tiny, "none")
    assert len(answers_of(loaded, [[5] * room])) == 1
    with pytest.raises(DataError, match=rf"needs {CONTEXT + 1} tokens, the model has {CONTEXT} positions"):
        answers_of(loaded, [[5] * (room + 1)])


def test_where_rows_are_truncated_long_prompts_are_cut_from_the_left_and_counted(tiny: BaseModel) -> None:
    text = "".join(chr(ord("a") + n % 26) for n in range(2 * CONTEXT))
    loaded, kept = load_kind(tiny, "none"), PLAIN.model_copy(update={"truncation": "truncate"})
    prompts, cut = prompts_of(loaded, question(text), SETTINGS.max_new_tokens, kept)
    assert cut == 1
    assert len(prompts[0]) == CONTEXT - SETTINGS.max_new_tokens
    assert prompts[0] == loaded.renderer.prompt_ids(question(text)[0].turns)[-len(prompts[0]) :]


@needs_stories
def test_a_cut_prompt_keeps_its_start_token() -> None:
    loaded = load_kind(base_in(STORIES), "none")
    (prompt,), _ = prompts_of(loaded, question("a " * 600), 12, PLAIN.model_copy(update={"truncation": "truncate"}))
    assert prompt.count(loaded.tokenizer.bos_token_id) == 1
    assert prompt[0] == loaded.tokenizer.bos_token_id
    assert len(prompt) == loaded.context - 12


@pytest.mark.parametrize("data", [PLAIN, PLAIN.model_copy(update={"truncation": "error"})])
def test_otherwise_long_prompts_are_left_alone_to_be_refused(tiny: BaseModel, data: DataSettings) -> None:
    prompts, cut = prompts_of(load_kind(tiny, "none"), question("a" * 2 * CONTEXT), SETTINGS.max_new_tokens, data)
    assert cut == 0
    assert len(prompts[0]) > CONTEXT
