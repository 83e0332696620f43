from typing import Any

import pytest

from tasks.data.settings import DataSettings
from tasks.data.templates import MASKED, Renderer
from tasks.data.values import EvalRow, Row, Turn
from tasks.foundation.errors import DataError, ModelError
from tests.data.worlds import CHATML, SHARED, make_tokenizer, row

STORIES = SHARED / "models" / "stories260k"
QUESTIONS = [
    row("name[Aromi], food[Chinese]", "Aromi serves Chinese food."),
    row("你好，介绍一下世界", "世界很大。"),
    row("trailing space ", " leading space"),
    row("line end\n", "\nline start"),
    row("a", "b"),
]


def renderer(tokenizer: Any, **settings: Any) -> Renderer:
    return Renderer(tokenizer, DataSettings(train="-", **settings))


def learned(found: tuple[list[int], list[int]]) -> list[int]:
    return [label for label in found[1] if label != MASKED]


@pytest.mark.parametrize("asked", QUESTIONS, ids=lambda asked: repr(asked.answer))
def test_exactly_the_answer_and_the_end_token_are_learned(asked: Row) -> None:
    tokenizer = make_tokenizer()
    ids, labels = renderer(tokenizer).row_ids(asked)
    assert tokenizer.decode(learned((ids, labels))) == asked.answer + "</s>"
    assert tokenizer.decode(ids) == f"<s>{asked.prompt[0].content}\n{asked.answer}</s>"
    assert all(label in (MASKED, token) for token, label in zip(ids, labels, strict=True))


@pytest.mark.parametrize("template", [None, CHATML])
@pytest.mark.parametrize("asked", QUESTIONS, ids=lambda asked: repr(asked.answer))
def test_generation_is_given_exactly_the_ids_that_training_begins_with(asked: Row, template: str | None) -> None:
    found = renderer(make_tokenizer(template))
    ids, labels = found.row_ids(asked)
    masked = labels.count(MASKED)
    assert found.prompt_ids(asked.prompt) == ids[:masked]
    assert set(labels[:masked]) == {MASKED}


def test_every_answer_of_a_conversation_is_learned_with_its_end() -> None:
    tokenizer = make_tokenizer()
    found = renderer(tokenizer, template="Q: {prompt} A:{completion}\n").row_ids(row("a", "b", "c", "d"))
    assert tokenizer.decode(found[0]) == "<s>Q: a A:b</s>\nQ: c A:d</s>"
    assert tokenizer.decode(learned(found)) == "b</s>d</s>"


def test_the_system_message_stands_in_its_place_once() -> None:
    tokenizer = make_tokenizer()
    asked = row("a", "b", "c", "d", system="S")
    ids, _ = renderer(tokenizer, template="[{system}] {prompt}={completion};").row_ids(asked)
    assert tokenizer.decode(ids) == "<s>[S] a=b</s>;[] c=d</s>"


def test_raw_text_is_learned_whole() -> None:
    tokenizer = make_tokenizer()
    ids, labels = renderer(tokenizer).row_ids(Row(id="t", text="One day."))
    assert tokenizer.decode(ids) == "<s>One day.</s>"
    assert labels == [MASKED, *ids[1:]]


def test_training_on_the_prompt_is_a_setting_and_never_reaches_evaluation_rows() -> None:
    found = renderer(make_tokenizer(), train_on_prompt=True)
    ids, labels = found.row_ids(QUESTIONS[0])
    assert labels == [MASKED, *ids[1:]]
    judged = EvalRow(**QUESTIONS[0].model_dump())
    assert found.row_ids(judged) == renderer(make_tokenizer()).row_ids(QUESTIONS[0])


def test_the_first_label_is_masked_even_without_bos() -> None:
    _, labels = renderer(make_tokenizer(bos=False), train_on_prompt=True).row_ids(QUESTIONS[0])
    assert labels[0] == MASKED
    assert MASKED not in labels[1:]


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    with pytest.raises(ModelError, match="eos_token"):
        renderer(make_tokenizer(eos=None))


def test_a_chat_template_is_used_unless_switched_off() -> None:
    tokenizer = make_tokenizer(CHATML)
    ids, labels = renderer(tokenizer).row_ids(row("a", "b", system="S"))
    start = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == start + "b<|im_end|>"
    assert tokenizer.decode(learned((ids, labels))) == "b<|im_end|>"
    plain = renderer(tokenizer, use_chat_template=False)
    assert tokenizer.decode(plain.row_ids(row("a", "b"))[0]) == "<s>a\nb</s>"
    assert (plain.template, renderer(tokenizer).template[:5]) == ("{prompt}\n{completion}", "chat:")


def test_generation_stops_at_the_token_that_was_trained() -> None:
    tokenizer = make_tokenizer(CHATML)
    names = tokenizer.convert_ids_to_tokens(renderer(tokenizer).end_token_ids)
    assert names == ["<|im_end|>", "</s>"]
    assert renderer(make_tokenizer()).end_token_ids == [tokenizer.eos_token_id]


def test_every_answer_of_a_chat_is_learned_with_its_end() -> None:
    tokenizer = make_tokenizer(CHATML)
    asked = row("assistant", "user", "b", "assistant", "你", "好")
    found = renderer(tokenizer).row_ids(asked)
    assert tokenizer.decode(learned(found)) == "user<|im_end|>assistant<|im_end|>好<|im_end|>"
    assert renderer(tokenizer).prompt_ids(asked.prompt) == found[0][: -len(tokenizer.tokenize("好")) - 1]


def test_a_template_that_strips_contents_keeps_exact_masks() -> None:
    tokenizer = make_tokenizer(CHATML.replace("message.content", "message.content | trim"))
    found = renderer(tokenizer).row_ids(row(" a ", " b ", "c", " d\n"))
    assert tokenizer.decode(learned(found)) == "b<|im_end|>d<|im_end|>"


def test_a_template_without_generation_prompt_and_end_gets_the_end_token() -> None:
    inst = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer(inst)
    ids, labels = renderer(tokenizer).row_ids(row("a", "b"))
    assert tokenizer.decode(ids) == "[INST] a [/INST] b</s>"
    assert tokenizer.decode(learned((ids, labels))) == " b</s>"


def test_bos_in_the_chat_template_is_not_doubled() -> None:
    tokenizer = make_tokenizer("{{ bos_token }}" + CHATML)
    ids, _ = renderer(tokenizer).row_ids(row("a", "b"))
    assert ids.count(tokenizer.bos_token_id) == 1


def test_today_is_always_the_same_day() -> None:
    tokenizer = make_tokenizer("{{ strftime_now('%Y') }}" + CHATML)
    assert tokenizer.decode(renderer(tokenizer).row_ids(row("a", "b"))[0]).startswith("2024<|im_start|>")


def test_a_template_whose_prompt_is_no_prefix_is_refused() -> None:
    with pytest.raises(ModelError, match="use_chat_template: false"):
        renderer(make_tokenizer(CHATML.replace("assistant\n", "model\n")))


CUTS = CHATML.replace("message.content", "message.content.split('!')[-1]")
COUNTS = "{{ messages | length if messages | length > 2 else '' }}" + CHATML
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        (CUTS, row("a", "thought!b")),
        (CUTS, row("a", "x!y", "c", "d")),
        (NO_SYSTEM, row("a", "b", system="S")),
        ("{{ messages | length }}" + CHATML, row("a", "b")),
        (COUNTS, row("a", "b", "c", "d")),
    ],
    ids=[
        "it drops a part of the answer",
        "it drops a part of an earlier answer",
        "it refuses a role",
        "no prefix",
        "no prefix later",
    ],
)
def test_a_row_that_the_template_does_not_render_faithfully_is_refused(template: str, asked: Row) -> None:
    with pytest.raises((DataError, ModelError), match="use_chat_template: false"):
        renderer(make_tokenizer(template)).row_ids(asked)


def test_rows_encoded_together_equal_rows_encoded_alone() -> None:
    found = renderer(make_tokenizer(CHATML))
    rows = [*QUESTIONS, row("a", "b", "c", "d"), Row(id="t", text="raw")]
    assert [(row.input_ids, row.labels) for row in found.encode(rows)] == [found.row_ids(row) for row in rows]


@pytest.mark.skipif(not STORIES.exists(), reason="the shared model is not here")
@pytest.mark.parametrize("asked", QUESTIONS[:2], ids=lambda asked: repr(asked.answer))
def test_sentencepiece_adds_no_space_before_the_answer(asked: Row) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    ids, labels = renderer(tokenizer).row_ids(asked)
    whole = tokenizer(f"{asked.prompt[0].content}\n{asked.answer}")["input_ids"]
    assert ids == [*whole, tokenizer.eos_token_id]
    assert tokenizer.decode(learned((ids, labels))) == asked.answer + "</s>"


def test_a_prompt_of_turns_alone_is_rendered_for_serving() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.decode(renderer(tokenizer).prompt_ids((Turn(role="user", content="hi"),))) == "<s>hi\n"
    assert renderer(tokenizer).prompt_ids(()) == [tokenizer.bos_token_id]
