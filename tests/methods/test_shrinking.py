from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, Moment, Window, method_code, parse_method
from tasks.methods._lora.elastic import elastic_of
from tasks.methods._lora.sizes import Size
from tasks.methods.progressive_shrinking import ProgressiveShrinking
from tasks.models import BaseModel, Quantization
from tasks.models.loading import load_base
from tests.methods.cases import attached, logits, save, train
from tests.models.tiny import token_batch

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)
SETTINGS: dict[str, Any] = {"kind": "progressive_shrinking", "r": 8, "ranks": [8, 3], "depths": [2, 1]}


def elastic(base: BaseModel, **settings: Any) -> tuple[ProgressiveShrinking, nn.Module]:
    """Attached, with every B away from zero."""
    method, model = attached(SETTINGS | settings, base)
    assert isinstance(method, ProgressiveShrinking)
    for name, part in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(part, std=0.1)
    return method, model


def rows() -> dict[str, torch.Tensor]:
    ids = token_batch()
    return {"input_ids": ids, "labels": ids.clone().index_fill_(1, torch.arange(4), -100)}


def by_hand(base: BaseModel, adapted: nn.Module, size: Size) -> torch.Tensor:
    """Logits of the base with s B[:, :k] A[:k] added to each weight of the topmost blocks."""
    plain = load_base(base)
    for name, layer in adapted.named_modules():
        if hasattr(layer, "lora_A"):
            own = name.removeprefix("base_model.model.")
            block = int(own.split(".")[2])
            if size.depth is None or block >= 2 - size.depth:
                down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                plain.get_submodule(own).weight.data += 32 / 8 * up[:, : size.rank] @ down[: size.rank]
    return logits(plain)


@pytest.mark.parametrize("size", [Size(8, 2), Size(3, 2), Size(8, 1), Size(3, 1)], ids=lambda size: size.name)
def test_a_size_is_the_first_rows_and_columns_in_the_topmost_blocks_at_the_scale_of_the_largest(
    base: BaseModel, size: Size
) -> None:
    method, model = elastic(base)
    method.set_size(model, size.name)
    expected = by_hand(base, model, size)
    assert float((logits(model) - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_sizes_stand_from_the_largest_to_the_smallest_and_halve_the_rank_when_nothing_is_said() -> None:
    assert parse_method({"kind": "progressive_shrinking", "r": 12}).sizes() == ("r12", "r6", "r3", "r1")
    assert parse_method(SETTINGS).sizes() == ("r8-d2", "r8-d1", "r3-d2", "r3-d1")


def test_as_much_trains_as_in_a_lora_of_the_largest_size(base: BaseModel) -> None:
    _, model = attached(SETTINGS, base)
    plain = get_peft_model(load_base(base), LoraConfig(r=8, target_modules="all-linear"))
    trained = [sum(part.numel() for part in one.parameters() if part.requires_grad) for one in (model, plain)]
    assert trained[0] == trained[1]
    assert trained[0] == 2 * 8 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))


def test_what_a_small_size_leaves_out_gets_gradients_of_zero_and_not_none(base: BaseModel) -> None:
    method, model = elastic(base, lora_dropout=0.0)
    elastic_of(model).training = Size(3, 1)
    method.training_loss(model, rows(), Window(16, 1)).total.backward()
    for name, part in model.named_parameters():
        if "lora_" in name:
            used, unused = part.grad[:3], part.grad[3:]
            if "lora_B" in name:
                used, unused = part.grad[:, :3], part.grad[:, 3:]
            assert not unused.any()
            assert bool(used.any()) == ("layers.1." in name)


def test_a_smaller_size_learns_from_the_data_and_from_the_largest(base: BaseModel) -> None:
    method, model = elastic(base, lora_dropout=0.0, teaching=0.7)
    elastic_of(model).training = Size(3, 2)
    loss = method.training_loss(model, rows(), Window(18, 1))
    given, wanted = (by_hand(base, model, size)[:, 3:-1].reshape(-1, 128) for size in (Size(3, 2), Size(8, 2)))
    entropy = nn.functional.cross_entropy(given, rows()["labels"][:, 4:].reshape(-1), reduction="sum") / 18
    taught = kl_div(log_softmax(given, 1), log_softmax(wanted, 1), reduction="sum", log_target=True) / 18
    torch.testing.assert_close(loss.cross_entropy, entropy)
    torch.testing.assert_close(loss.total, entropy + 0.7 * taught)
    assert float(taught) > 0.01


def test_the_largest_teaches_without_dropout_and_leaves_mode_and_random_numbers_as_they_were(base: BaseModel) -> None:
    method, model = elastic(base, lora_dropout=0.5)
    elastic_of(model).training = Size(8, 1)
    torch.manual_seed(3)
    method.training_loss(model, rows(), Window(16, 1))
    after = torch.random.get_rng_state()
    torch.manual_seed(3)
    model(input_ids=token_batch())
    assert torch.equal(after, torch.random.get_rng_state())
    assert model.training
    assert all(module.training for name, module in model.named_modules() if "dropout" in name)


def test_training_begins_with_the_largest_and_takes_in_ever_smaller_sizes() -> None:
    method = parse_method({**SETTINGS, "largest_share": 0.25})
    drawn = [method.drawn(Moment(step, 400, 7)).name for step in range(1, 401)]  # type: ignore[attr-defined]
    sizes = method.sizes()
    assert set(drawn[:100]) == {sizes[0]}
    assert [set(drawn[begin : begin + 100]) for begin in (100, 200, 300)] == [set(sizes[:n]) for n in (2, 3, 4)]
    assert min(Counter(drawn[300:]).values()) > 10


def test_the_size_of_a_step_follows_from_seed_and_step_alone() -> None:
    method = parse_method(SETTINGS)
    drawn = {
        seed: [method.drawn(Moment(step, 60, seed)).name for step in range(1, 61)]  # type: ignore[attr-defined]
        for seed in (0, 1)
    }
    assert drawn[0] != drawn[1]
    assert method.drawn(Moment(50, 60, 0)).name == drawn[0][49]  # type: ignore[attr-defined]


@pytest.mark.parametrize("total", [1, 3, 4, 5])
def test_the_first_three_steps_of_any_run_train_every_tensor(total: int) -> None:
    method = parse_method({**SETTINGS, "largest_share": 0.01})
    drawn = [method.drawn(Moment(step, total, 0)).name for step in range(1, total + 1)]  # type: ignore[attr-defined]
    assert set(drawn[:3]) == {"r8-d2"}


def test_before_a_step_the_model_takes_the_size_that_was_drawn_and_evaluates_at_the_largest(base: BaseModel) -> None:
    method, model = elastic(base)
    largest = logits(model)
    moment = next(moment for step in range(40, 60) if method.drawn(moment := Moment(step, 60, 0)) == Size(3, 1))
    method.before_step(model, moment)
    assert elastic_of(model).training == Size(3, 1)
    assert torch.equal(logits(model), largest)


def test_every_size_learns_and_the_loaded_adapter_serves_all_of_them(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({**SETTINGS, "lora_dropout": 0.0, "largest_share": 0.2}, base)
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-2)
    for step in range(1, 61):
        method.before_step(model, Moment(step, 60, 0))
        method.training_loss(model.train(), rows(), Window(16, 1)).total.backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    save(method, model, tmp_path)
    loaded = method.load(load_base(base), tmp_path)
    quality = method.explain(loaded, [rows()])
    assert list(quality) == [f"loss/{size}" for size in method.sizes()]
    assert max(quality.values()) < 1.0
    assert quality == method.explain(model.eval(), [rows()])
    method.set_size(loaded, "r3-d1")
    small = logits(loaded)
    method.set_size(loaded, "r8-d2")
    assert not torch.equal(logits(loaded), small)


def test_the_folder_is_peft_s_with_the_sizes_beside_it(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(SETTINGS, base)
    train(model)
    save(method, model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "elastic.json",
    }
    stated = json.loads((tmp_path / "elastic.json").read_text())["sizes"]
    assert stated["r3-d1"] == {"rank": 3, "depth": 1}
    assert tuple(stated) == method.sizes()


def test_an_unknown_size_is_refused_with_those_that_exist(base: BaseModel) -> None:
    method, model = elastic(base)
    with pytest.raises(ConfigError, match=r"no size 'r4'.*r8-d2, r8-d1, r3-d2, r3-d1"):
        method.set_size(model, "r4")


def test_it_shrinks_beside_a_4_bit_base_too(base: BaseModel) -> None:
    pytest.importorskip("bitsandbytes")
    method = parse_method(SETTINGS)
    torch.manual_seed(0)
    model = method.attach(load_base(base, quantization=Quantization(bits=4))).train()
    train(model)
    full = logits(model)
    method.set_size(model, "r3-d1")
    assert not torch.equal(logits(model), full)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranks": [4, 2]}, "ranks must begin with r, which is 16"),
        ({"ranks": [16, 16]}, "ranks must fall"),
        ({"depths": [1, 2]}, "depths must fall"),
        ({"depths": [2, 0]}, "depths must fall"),
        ({"r": 1}, "but one size"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "orthogonal"}, "init_lora_weights"),
        ({"depths": [2, 1], "layers_to_transform": [0]}, "layers_to_transform does not go with depths"),
    ],
)
def test_what_does_not_nest_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "progressive_shrinking", **settings})


def test_depths_begin_with_all_blocks_of_the_model(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"depths must begin with all blocks.*Allowed: 2.*depths: \[2, …\]"):
        parse_method({"kind": "progressive_shrinking", "depths": [3, 1]}).check(base.facts, PLAIN)


def test_the_code_of_its_sizes_and_its_loss_decides_its_key() -> None:
    code = method_code(SETTINGS)
    assert {
        f"tasks.methods.{name}" for name in ("_lora.elastic", "_teacher.lesson", "_lora.method", "_peft", "_lora.sizes")
    } <= set(code)
