from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError, DataError
from tasks.methods import Conditions, Window, parse_method
from tasks.methods._loss import answer_logits
from tasks.methods._teacher.teacher import teacher_of
from tasks.methods._teacher.text import Reply, TextTeacher
from tasks.models import BaseModel
from tasks.models.loading import load_base, load_tokenizer
from tasks.training.settings import TrainingSettings
from tests.methods.cases import token_batch
from tests.methods.teachers import LORA, adapter_of, distilled, rows, whole, write_stranger
from tests.training.layouts import cell_on, layout_of
from tests.training.ranks import trained_by_ranks
from tests.training.worlds import (
    killed_after,
    loss_series,
    request_in,
    toy_cell,
    trained,
    write_tokens,
)

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)


@pytest.fixture
def stranger(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return write_stranger(base, tmp_path_factory.mktemp("stranger") / "model")


def text_teacher(base: BaseModel, teacher: BaseModel, **settings: Any) -> TextTeacher:
    found = teacher_of(distilled({"level": "sequence", **settings}, base, whole(teacher))[1])
    assert isinstance(found, TextTeacher)
    return found


def test_the_student_learns_the_answers_that_the_teacher_writes_in_its_own_vocabulary(
    base: BaseModel, stranger: BaseModel
) -> None:
    method, model = distilled({"level": "sequence", "max_new_tokens": 6, "alpha": 0.4}, base, whole(stranger))
    batch = rows()
    answers = load_base(base).generate(
        batch["input_ids"][:, :4], attention_mask=torch.ones(2, 4), do_sample=False, max_new_tokens=6, pad_token_id=1
    )
    own = cross_entropy(answer_logits(model, batch).transpose(1, 2), batch["labels"][:, 1:], reduction="sum") / 14
    means = []
    for answer in answers:
        words = answer[(answer > 2)][None]  # special tokens are no text
        means.append(cross_entropy(model(words).logits[0, 3:-1], words[0, 4:]))
    loss = method.training_loss(model, batch, Window(14, 1))
    torch.testing.assert_close(loss.cross_entropy, own)
    torch.testing.assert_close(loss.total, 0.6 * own + 0.4 * (8 * means[0] + 6 * means[1]) / 14)


def test_prompts_of_unlike_length_are_answered_as_each_would_be_alone(base: BaseModel, stranger: BaseModel) -> None:
    teacher = text_teacher(base, stranger, max_new_tokens=6)
    prompts = [token_batch()[0, :3].tolist(), token_batch()[1, :9].tolist()]
    device = torch.device("cpu")
    together = teacher._replies(prompts, device)
    assert together == [teacher._replies([prompt], device)[0] for prompt in prompts]
    assert all(len(reply.text.split()) in (5, 6) and not reply.ended for reply in together)


def test_an_answer_ends_as_the_row_s_did_and_one_that_was_cut_has_no_end_to_learn(
    base: BaseModel, stranger: BaseModel
) -> None:
    teacher = text_teacher(base, stranger)
    row = teacher._cut([5, 6, 7, 8, 9, 1], [-100, 6, -100, -100, 9, 1])
    assert (row.prompt, row.answered, row.end) == ([5, 6, 7, 8], 2, [1])
    assert teacher._written(row, Reply("w20 w21", True), 64) == ([5, 6, 7, 8, 20, 21, 1], [-100] * 4 + [20, 21, 1])
    assert teacher._written(row, Reply("w20 w21", False), 64) == ([5, 6, 7, 8, 20, 21], [-100] * 4 + [20, 21])
    assert teacher._written(row, Reply("w20 w21", True), 5) == ([5, 6, 7, 8, 20], [-100] * 4 + [20])
    assert teacher._reply([10, 11, 130 - 20, 1, 1], 2) == Reply(" w20", True)


def test_a_prompt_that_leaves_the_teacher_no_room_is_an_error(base: BaseModel, stranger: BaseModel) -> None:
    method, model = distilled({"level": "sequence", "max_new_tokens": 61}, base, whole(stranger))
    with pytest.raises(DataError, match="a prompt of 4 tokens and 61 new ones are over the teacher's context of 64"):
        method.training_loss(model, rows(), Window(14, 1))


def test_a_soft_prompt_cannot_teach_by_text(base: BaseModel, tmp_path: Path) -> None:
    source = adapter_of({"kind": "prompt_tuning"}, base, tmp_path)
    with pytest.raises(ConfigError, match=r"soft prompt.*level: token"):
        distilled({"level": "sequence"}, base, source)
    distilled({"level": "token"}, base, source)


def test_packed_rows_are_refused_at_sequence_level(base: BaseModel) -> None:
    packed = PLAIN.model_copy(update={"packing": True})
    with pytest.raises(ConfigError, match="packing puts several into one"):
        parse_method({"kind": "distillation", "level": "sequence"}).check(base.facts, packed)
    parse_method({"kind": "distillation"}).check(base.facts, packed)


@pytest.fixture
def tokens(tmp_path: Path) -> Artifact:
    return write_tokens(tmp_path / "tokens")


def test_a_cell_with_a_teacher_that_writes_ends_with_the_same_bytes_after_a_kill(
    base: BaseModel, stranger: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    settings = {"student": {**LORA, "lora_dropout": 0.1}, "teacher": "x", "level": "sequence", "max_new_tokens": 4}
    cell = toy_cell(base, tokens, {"kind": "distillation", "learning_rate": 1e-2, **settings})
    cell = cell.model_copy(update={"sources": {"teacher": whole(stranger)}})
    expected = trained(request_in(tmp_path / "whole", cell))
    request = request_in(tmp_path / "killed", cell)
    killed_after(5, request)
    assert trained(request).weights_digest == expected.weights_digest
    plain = toy_cell(base, tokens, {**LORA, "lora_dropout": 0.1, "learning_rate": 1e-2})
    assert expected.trainable_parameters == trained(request_in(tmp_path / "plain", plain)).trainable_parameters


def test_tokenizers_of_the_two_models_really_differ(base: BaseModel, stranger: BaseModel) -> None:
    assert load_tokenizer(base)("w5 w6")["input_ids"] == [5, 6]
    assert load_tokenizer(stranger)("w5 w6")["input_ids"] == [125, 124]


def test_two_ranks_learn_from_the_teacher_s_answers_what_one_would(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    method = {"kind": "distillation", "student": LORA, "level": "sequence", "max_new_tokens": 4, "learning_rate": 1e-3}
    requests = []
    for ranks in (1, 2):
        settings = TrainingSettings(max_steps=3, per_device_train_batch_size=6 // ranks, save_steps=3)
        requests.append(
            request_in(tmp_path / str(ranks), cell_on(layout_of("ddp", ranks), base, tokens, method, settings))
        )
    results = [trained(requests[0]), trained_by_ranks(requests[1])]
    assert loss_series(requests[1]) == [
        (step, pytest.approx(loss, abs=2e-4)) for step, loss in loss_series(requests[0])
    ]
    assert results[1].eval_loss == pytest.approx(results[0].eval_loss, abs=2e-4)
