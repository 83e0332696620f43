"""AdapterDrop: which adapters answer in a step, which at serving, and where the backward pass ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, Moment, Source, parse_method
from tasks.methods._bottleneck.modules import adapters_in
from tasks.models import BaseModel
from tests.methods.cases import attached, save, train
from tests.methods.cases import logits as tiny_logits
from tests.models.families import tiny_model, tiny_tokens
from tests.training.worlds import QUICK, request_in, toy_cell, trained, write_tokens

LAYERS = 4
PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)


def dropping(**settings: Any) -> tuple[Any, nn.Module]:
    """Four blocks of a Llama, with adapters whose weights are large enough to see."""
    method = parse_method({"kind": "adapter_drop", "bottleneck_size": 4, **settings})
    model = method.attach(tiny_model("llama", num_hidden_layers=LAYERS))
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return method, model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(tiny_tokens()).logits
    return out


def without_lowest(n: int, **settings: Any) -> Tensor:
    """Logits where W_up and b_up of the lowest n adapters are 0: they answer nothing."""
    _, model = dropping(**settings)
    for adapter in adapters_in(model):
        if adapter.index < n:
            for bottleneck in (part for part in adapter.children() if hasattr(part, "up")):
                nn.init.zeros_(bottleneck.up.weight)
                nn.init.zeros_(bottleneck.up.bias)
    return logits(model)


def gradients(model: nn.Module) -> dict[int, list[Tensor]]:
    """Block -> gradients of its adapter."""
    ids = tiny_tokens()
    model.train()(input_ids=ids, labels=ids).loss.backward()
    return {a.index: [part.grad for part in a.parameters() if part.grad is not None] for a in adapters_in(model)}


def test_the_depth_of_a_step_follows_from_seed_and_step_alone_and_every_depth_is_drawn() -> None:
    method, model = dropping()

    def drawn(seed: int, step: int) -> int:
        method.before_step(model, Moment(step=step, total_steps=100, seed=seed))
        out = [adapter.index for adapter in adapters_in(model) if adapter.drawn_out]
        assert out == list(range(len(out)))
        return len(out)

    depths = [drawn(0, step) for step in range(1, 401)]
    assert [drawn(0, step) for step in range(1, 401)] == depths
    assert [drawn(1, step) for step in range(1, 401)] != depths
    assert Counter(depths).keys() == set(range(LAYERS))
    assert min(Counter(depths).values()) > 70


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
def test_adapters_that_were_drawn_out_answer_nothing_and_have_gradients_of_zero(variant: str) -> None:
    method, model = dropping(variant=variant)
    step = next(step for step in range(1, 50) if _depth(method, model, step) == 2)
    method.before_step(model, Moment(step=step, total_steps=50, seed=0))
    ids = tiny_tokens()
    with torch.no_grad():
        in_training = model.train()(ids).logits
    torch.testing.assert_close(in_training, without_lowest(2, variant=variant))
    found = gradients(model)
    each = 8 if variant == "houlsby" else 4
    assert {index: len(grads) for index, grads in found.items()} == dict.fromkeys(range(LAYERS), each)
    assert not any(grad.any() for index in (0, 1) for grad in found[index])
    assert all(grad.any() for index in (2, 3) for grad in found[index])


def _depth(method: Any, model: nn.Module, step: int) -> int:
    method.before_step(model, Moment(step=step, total_steps=50, seed=0))
    return sum(adapter.drawn_out for adapter in adapters_in(model))


def test_an_evaluation_between_steps_sees_all_adapters() -> None:
    method, model = dropping()
    everything = logits(model)
    assert {_depth(method, model, step) for step in range(1, 20)} == set(range(LAYERS))
    assert torch.equal(logits(model), everything)


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel"])
def test_each_size_serves_without_the_lowest_adapters_and_another_call_gives_another(variant: str) -> None:
    method, model = dropping(variant=variant)
    for size, n in (("drop 3", 3), ("drop 50%", 2), ("drop 0", 0), ("drop 25%", 1), ("drop 99%", 3)):
        method.set_size(model, size)
        torch.testing.assert_close(logits(model), without_lowest(n, variant=variant))


@pytest.mark.parametrize("size", ["drop 4", "drop 100%", "drop", "drop x", "3", "drop -1"])
def test_what_is_no_size_is_refused(size: str) -> None:
    method, model = dropping()
    with pytest.raises(ConfigError, match=r"is no size of adapter_drop.*drop 0 to drop 3"):
        method.set_size(model, size)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, ("drop 0%", "drop 25%", "drop 50%", "drop 75%")),
        ({"drops": [0, 1, 3]}, ("drop 0", "drop 1", "drop 3")),
        ({"mode": "specialised", "drop": 1}, ()),
        ({"mode": "specialised", "drop": 0, "drops": [0, 2]}, ("drop 0", "drop 2")),
    ],
)
def test_the_sizes_are_those_asked_for_or_the_quarters_of_the_depth(
    settings: dict[str, Any], sizes: tuple[str, ...]
) -> None:
    assert parse_method({"kind": "adapter_drop", **settings}).sizes() == sizes


def test_specialised_has_no_adapter_below_n_and_passes_nothing_back_there() -> None:
    _, model = dropping(mode="specialised", drop=2)
    assert [adapter.index for adapter in adapters_in(model)] == [2, 3]
    inputs: dict[int, bool] = {}
    for index, block in enumerate(model.model.layers):
        block.register_forward_hook(
            lambda module, given, out, index=index: inputs.update({index: out.requires_grad})  # type: ignore[misc]
        )
    gradients(model)
    assert inputs == {0: False, 1: False, 2: True, 3: True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "specialised"}, "drop belongs to mode: specialised"),
        ({"drop": 1}, "drop belongs to mode: specialised"),
        ({"drops": [2, 1]}, "must rise"),
        ({"mode": "specialised", "drop": 2, "drops": [1]}, "cannot be left out where 2 always are"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "adapter_drop", **settings})


@pytest.mark.parametrize("settings", [{"mode": "specialised", "drop": 2}, {"drops": [0, 2]}])
def test_leaving_all_adapters_out_is_refused_before_the_model_is_loaded(
    base: BaseModel, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"2 of 2 adapters left out leaves none.*0 to 1"):
        parse_method({"kind": "adapter_drop", **settings}).check(base.facts, PLAIN)


def test_training_goes_on_from_a_plain_adapter_of_the_same_shape(base: BaseModel, tmp_path: Path) -> None:
    plain, model = attached({"kind": "adapter", "variant": "pfeiffer"}, base)
    train(model)
    save(plain, model, tmp_path)
    source = Source(reference="run-1", path=tmp_path, digest="d", holds="adapter", method=plain.model_dump())
    method, other = attached({"kind": "adapter_drop"}, base, seed=3)
    method.start_from(other, source)
    assert torch.equal(tiny_logits(other), tiny_logits(model))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tokens(tmp_path_factory.mktemp("toy") / "tokens")


def test_a_session_draws_depths_and_its_audit_of_what_moved_passes(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    method = {"kind": "adapter_drop", "learning_rate": 1e-2}
    result = trained(request_in(tmp_path, toy_cell(base, tokens, method, QUICK)))
    assert result.steps == QUICK.max_steps
    assert result.trainable_parameters == 2 * (2 * 64 * 4 + 4 + 64)
