from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax
from transformers import AutoModelForCausalLM

from tasks.data.collate import Collator
from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, Source, Window, method_code, parse_method
from tasks.methods._lora.elastic import elastic_of
from tasks.methods._lora.sizes import Size
from tasks.methods._teacher.teacher import teacher_of
from tasks.methods.lora import Lora
from tasks.models import BaseModel, Quantization
from tasks.models.loading import load_base
from tests.methods.cases import Settings, attached, logits, train
from tests.methods.teachers import LORA, adapter_of, distilled, one_row, rows, whole, write_stranger
from tests.models.tiny import VOCABULARY, tiny_base, write_tiny_llama

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)


@pytest.fixture
def adapter(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A LoRA of the base that was trained and saved."""
    return adapter_of({"kind": "lora", "r": 8}, base, tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def stranger(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return write_stranger(base, tmp_path_factory.mktemp("stranger") / "model")


# --- token level ------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_formula_written_out(base: BaseModel, adapter: Source) -> None:
    method, model = distilled({"alpha": 0.3, "temperature": 3.0}, base, adapter)
    taught = parse_method({"kind": "lora", "r": 8}).load(load_base(base), adapter.path)
    batch = rows()
    loss = method.training_loss(model, batch, Window(14, 1))
    answered = batch["labels"][:, 1:] != -100
    with torch.no_grad():
        mine, theirs = (
            one(batch["input_ids"], batch["attention_mask"]).logits[:, :-1][answered] for one in (model, taught)
        )
    entropy = cross_entropy(mine, batch["labels"][:, 1:][answered], reduction="sum") / 14
    wanted, given = softmax(theirs / 3, 1), softmax(mine / 3, 1)
    divergence = 9 * (wanted * (wanted / given).log()).sum() / 14
    torch.testing.assert_close(loss.cross_entropy, entropy)
    torch.testing.assert_close(loss.total, 0.7 * entropy + 0.3 * divergence, rtol=1e-5, atol=1e-6)
    assert float(divergence) > 0.01


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_two_micro_batches_of_one_row_are_one_of_two(base: BaseModel, adapter: Source, level: str) -> None:
    method, model = distilled({"level": level, "max_new_tokens": 5}, base, adapter)
    batch = rows()
    together = method.training_loss(model, batch, Window(14, 1))
    apart = [method.training_loss(model, one_row(batch, row), Window(14, 2)) for row in (0, 1)]
    for one, parts in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(sum(parts), one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_batch_without_anything_to_learn_counts_nothing_and_still_has_a_gradient(base: BaseModel, level: str) -> None:
    method, model = distilled({"level": level}, base)
    loss = method.training_loss(model, Collator(0)([]), Window(14, 2))
    loss.total.backward()
    assert (float(loss.total.detach()), float(loss.cross_entropy.detach())) == (0.0, 0.0)
    assert all(part.grad is not None for part in model.parameters() if part.requires_grad)


def test_against_the_bare_base_an_untrained_student_has_nothing_to_learn(base: BaseModel) -> None:
    method, model = distilled({"alpha": 1.0}, base)
    loss = method.training_loss(model, rows(), Window(14, 1))
    assert float(loss.total.detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(loss.cross_entropy.detach()) > 1


def test_a_student_comes_to_say_what_its_teacher_says(base: BaseModel, adapter: Source) -> None:
    method, model = distilled({"alpha": 1.0, "temperature": 1.0}, base, adapter)
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-2)
    losses = []
    for _ in range(25):
        total = method.training_loss(model, rows(), Window(14, 1)).total
        total.backward()
        losses.append(float(total.detach()))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.1 * losses[0]


# --- teachers that are other models -----------------------------------------------------------------------------------


def test_another_model_of_the_same_vocabulary_teaches_even_where_its_embedding_is_higher(
    base: BaseModel, tmp_path: Path
) -> None:
    folder = write_tiny_llama(tmp_path / "higher")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(VOCABULARY + 8)
    model.save_pretrained(folder)
    source = whole(tiny_base(folder))
    method, student = distilled({"alpha": 1.0}, base, source)
    total = method.training_loss(student, rows(), Window(14, 1)).total
    assert float(total.detach()) == pytest.approx(0.0, abs=1e-5)
    assert not any("higher" in name for name, _ in student.named_modules())
    assert len(list(student.parameters())) == len(list(attached(LORA, base)[1].parameters()))


def test_a_teacher_of_another_vocabulary_is_refused_at_token_level(base: BaseModel, stranger: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"has another vocabulary .*level: sequence") as refused:
        distilled({}, base, whole(stranger))
    assert refused.value.exit_code == 10
    distilled({"level": "sequence"}, base, whole(stranger))


def test_an_adapter_of_another_base_is_refused(base: BaseModel, adapter: Source) -> None:
    foreign = adapter.model_copy(update={"base_digest": "0" * 64})
    with pytest.raises(ConfigError, match=r"teacher: r1 is an adapter of another base.*merged model"):
        distilled({}, base, foreign)


def test_an_adapter_folder_of_unknown_origin_teaches_as_peft_loads_it(base: BaseModel, adapter: Source) -> None:
    _, model = distilled({}, base, adapter.model_copy(update={"method": None, "base_digest": ""}))
    expected = parse_method({"kind": "lora", "r": 8}).load(load_base(base), adapter.path)
    assert torch.equal(logits(teacher_of(model).model), logits(expected))


# --- the student ------------------------------------------------------------------------------------------------------


def test_a_student_with_a_loss_of_its_own_keeps_it(base: BaseModel, adapter: Source) -> None:
    student = {"kind": "progressive_shrinking", "r": 8, "lora_dropout": 0.0}
    method, model = distilled({"student": student, "alpha": 0.5}, base, adapter)
    train(model)
    model.train()
    elastic_of(model).training = Size(2)
    own = method.learner.training_loss(model, rows(), Window(14, 1))
    taught = teacher_of(model).taught(model, rows(), Window(14, 1), None)
    loss = method.training_loss(model, rows(), Window(14, 1))
    assert float((own.total - own.cross_entropy).detach()) > 0
    torch.testing.assert_close(loss.total, own.total + 0.5 * (taught - own.cross_entropy))
    assert method.sizes() == ("r8", "r4", "r2", "r1")


def test_holding_merging_and_refusing_are_the_student_s(base: BaseModel) -> None:
    kinds: dict[str, Settings] = {kind: {"kind": kind} for kind in ("full", "prompt_tuning", "qlora", "lora")}
    methods = {kind: parse_method({"kind": "distillation", "student": student}) for kind, student in kinds.items()}
    assert {kind: method.holds for kind, method in methods.items()} == {
        "full": "model",
        "prompt_tuning": "adapter",
        "qlora": "adapter",
        "lora": "adapter",
    }
    assert methods["prompt_tuning"].unmergeable() == "prompt_tuning has no merged form"
    assert methods["lora"].unmergeable() == ""
    assert methods["qlora"].quantization() == Quantization(bits=4)
    assert methods["full"].refuses_quantization(Quantization(bits=4))
    with pytest.raises(ConfigError, match=r"methods\[distillation\].*r: 65"):
        parse_method({"kind": "distillation", "student": {"kind": "lora", "r": 65}}).check(base.facts, PLAIN)


def test_it_starts_from_what_the_student_s_method_starts_from(
    base: BaseModel, adapter: Source, monkeypatch: Any
) -> None:
    seen: list[Source] = []
    monkeypatch.setattr(Lora, "start_from", lambda self, model, source: seen.append(source))
    method = parse_method({"kind": "distillation", "student": LORA, "init_from": "r0"})
    assert method.sources() == {"init_from": "r0"}
    method.start_from(nn.Identity(), adapter)
    made = parse_method({"kind": "distillation", "student": LORA}).model_dump(mode="json")
    method.start_from(nn.Identity(), adapter.model_copy(update={"method": made}))
    assert [source.method["kind"] for source in seen if source.method] == ["lora", "lora"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": {"kind": "none"}}, "none cannot be the student"),
        ({"student": {"kind": "distillation"}}, "distillation cannot be the student"),
        ({"student": {"kind": "lora", "learning_rate": 1e-3}}, "learning_rate stands beside student"),
        ({"student": {"kind": "lora", "init_from": "x"}}, "init_from stands beside student"),
        ({"student": {"kind": "lorra"}}, "Did you mean lora"),
        ({"student": {"kind": "lora", "rank": 3}}, "unknown setting rank"),
        ({"alpha": 0}, "alpha"),
        ({"temperature": 0}, "temperature"),
        ({"teacher": ""}, "teacher"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "distillation", **settings})


def test_the_teacher_is_a_source_unless_it_is_the_bare_base() -> None:
    assert parse_method({"kind": "distillation"}).sources() == {}
    assert parse_method({"kind": "distillation", "teacher": "models:/m/3"}).sources() == {"teacher": "models:/m/3"}


def test_the_student_s_code_and_the_teacher_s_decide_the_key() -> None:
    code = set(method_code({"kind": "distillation", "student": {"kind": "ia3"}}))
    assert {
        f"tasks.methods.{name}" for name in ("distillation", "ia3", "_peft", "_teacher.lesson", "_teacher.teacher")
    } <= code


@pytest.mark.parametrize(
    ("settings", "decay"),
    [({}, 0.1), ({"student": {"kind": "ia3"}}, 0.0), ({"student": {"kind": "ia3"}, "weight_decay": 0.3}, 0.3)],
)
def test_a_student_decays_as_it_would_without_a_teacher(settings: Settings, decay: float) -> None:
    assert parse_method({"kind": "distillation", **settings}).decay(0.1) == decay
