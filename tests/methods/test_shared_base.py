from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.foundation.errors import ConfigError
from tasks.methods import Source, Window, parse_method
from tasks.methods._loss import answer_logits
from tasks.methods._teacher.teacher import teacher_of
from tasks.methods._teacher.twin import Twin
from tasks.models import BaseModel, Quantization
from tasks.models.loading import load_base
from tests.methods.cases import Settings, attached, logits, save, train
from tests.methods.teachers import LORA, adapter_of, distilled, rows


@pytest.fixture
def adapter(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A LoRA of the base that was trained and saved."""
    return adapter_of({"kind": "lora", "r": 8}, base, tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("teacher", [{"kind": "lora", "r": 8}, {"kind": "ia3"}, {"kind": "prefix_tuning"}, None])
def test_a_teacher_on_the_same_base_brings_its_adapter_and_no_second_base(
    base: BaseModel, tmp_path: Path, teacher: Settings | None
) -> None:
    source = adapter_of(teacher, base, tmp_path) if teacher else None
    _, model = distilled({}, base, source)
    beside = teacher_of(model).model
    own = {part.data_ptr() for part in model.parameters()}
    extra = [part for part in beside.parameters() if part.data_ptr() not in own]
    shared = [part for part in beside.parameters() if part.data_ptr() in own]
    assert sum(part.numel() for part in shared) == base.facts.parameters
    assert len(extra) == len(list(beside.parameters())) - 20
    assert bool(extra) == bool(teacher)
    expected = parse_method(teacher).load(load_base(base), tmp_path) if teacher else load_base(base)
    assert torch.equal(logits(beside), logits(expected))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_shared_too_and_the_student_s_gradients_stay_what_they_are(
    base: BaseModel, bits: int
) -> None:
    pytest.importorskip("bitsandbytes")
    quantization = Quantization(bits=bits)  # type: ignore[arg-type]
    gradients = []
    for settings in (LORA, {"kind": "distillation", "student": LORA}):
        method = parse_method(settings)
        torch.manual_seed(0)
        model = method.attach(load_base(base, quantization=quantization)).train()
        loss = method.training_loss(model, rows(), Window(14, 1))
        entropy = loss.cross_entropy if loss else model(**rows(), num_items_in_batch=14).loss
        entropy.backward()
        gradients.append({name: part.grad for name, part in model.named_parameters() if part.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)
    own = {part.data_ptr() for part in model.parameters()}
    assert all(part.data_ptr() in own for part in teacher_of(model).model.parameters())


@pytest.mark.parametrize(
    ("student", "copied"), [({"kind": "full"}, 82240), ({"kind": "freeze", "num_layers": 1}, 36992)]
)
def test_of_what_the_student_trains_the_teacher_keeps_a_copy_that_stays(
    base: BaseModel, student: Settings, copied: int
) -> None:
    _, model = distilled({"student": student}, base)
    beside = teacher_of(model).model
    before = logits(beside)
    train(model)
    assert torch.equal(logits(beside), before)
    own = {part.data_ptr() for part in model.parameters()}
    assert sum(part.numel() for part in beside.parameters() if part.data_ptr() not in own) == copied


def test_a_start_that_rewrites_the_base_is_refused(base: BaseModel) -> None:
    model = load_base(base).requires_grad_(False)
    twin = Twin(model, "methods[x]")
    twin.part_from_student()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 0.5
    with pytest.raises(ConfigError, match=r"up_proj.weight of the base is rewritten before training"):
        twin.part_from_student()


def test_the_student_is_what_it_would_be_without_a_teacher(base: BaseModel, adapter: Source, tmp_path: Path) -> None:
    plain, alone = attached(parse_method(LORA).model_dump(), base)
    method, model = distilled({}, base, adapter)
    tensors = [dict(one.named_parameters()) for one in (alone, model)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(part, tensors[1][name]) for name, part in tensors[0].items())
    assert all(part.requires_grad == tensors[1][name].requires_grad for name, part in tensors[0].items())
    for name, (one, which) in {"a": (plain, alone), "b": (method, model)}.items():
        (tmp_path / name).mkdir()
        save(one, which, tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_teacher_draws_no_random_number_and_stays_in_eval_mode(base: BaseModel, tmp_path: Path) -> None:
    source = adapter_of({"kind": "lora", "r": 8, "lora_dropout": 0.5}, base, tmp_path)
    method, model = distilled({"student": {**LORA, "lora_dropout": 0.5}}, base, source)
    torch.manual_seed(3)
    method.training_loss(model, rows(), Window(14, 1))
    after = torch.random.get_rng_state()
    torch.manual_seed(3)
    answer_logits(model, rows())
    assert torch.equal(after, torch.random.get_rng_state())
    assert model.training
    assert not any(module.training for module in teacher_of(model).model.modules())
