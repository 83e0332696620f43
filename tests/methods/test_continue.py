"""`init_from`: a method starts as what an earlier run left, or says why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import INIT_FROM, Conditions, Method, Source, Supplies, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tasks.models.skeleton import skeleton
from tasks.training.plan import CellSpec, plan_cell
from tests.methods.cases import attached, batches, case_name, logits, save, train
from tests.training.worlds import QUICK, request_in, trained, write_tokens

LORA: dict[str, Any] = {"kind": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def earlier(settings: dict[str, Any], base: BaseModel, folder: Path) -> tuple[Source, torch.Tensor]:
    """What three steps of a method left, and its logits."""
    method, model = attached(settings, base)
    train(model)
    folder.mkdir()
    save(method, model, folder)
    return source_of(folder, base, method.holds), logits(model)


def source_of(folder: Path, base: BaseModel, holds: Any = "adapter") -> Source:
    return Source(reference="runs/1", path=folder, digest="d", holds=holds, base_digest=base.digest)


def started(settings: dict[str, Any], base: BaseModel, source: Source) -> tuple[Method, torch.nn.Module]:
    """A method on a fresh base, put where the source ended."""
    method = parse_method(settings | {"init_from": "runs/1"})
    torch.manual_seed(1)
    model = method.attach(load_base(base), Supplies({INIT_FROM: source}, batches))
    method.start_from(model, source)
    return method, model


def rehearsed(settings: dict[str, Any], base: BaseModel, source: Source) -> None:
    """The same on the base's architecture alone."""
    method = parse_method(settings | {"init_from": "runs/1"})
    method.rehearse_start(skeleton(base.path), Supplies({INIT_FROM: source}))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LORA, LORA),
        (LORA | {"use_dora": True}, LORA | {"use_dora": True, "lora_dropout": 0.3}),
        (LORA | {"init_lora_weights": "pissa"}, LORA | {"r": 8, "lora_alpha": 16}),
        ({"kind": "lora", "r": 4, "init_lora_weights": "eva"}, {"kind": "lora", "r": 4}),
        ({"kind": "ia3"}, {"kind": "ia3"}),
        ({"kind": "adalora", "init_r": 6, "target_r": 2}, {"kind": "adalora", "init_r": 6, "target_r": 2}),
        ({"kind": "prompt_tuning", "num_virtual_tokens": 4}, {"kind": "prompt_tuning", "num_virtual_tokens": 4}),
        ({"kind": "p_tuning", "num_virtual_tokens": 4}, {"kind": "prompt_tuning", "num_virtual_tokens": 4}),
        (
            {"kind": "prefix_tuning", "num_virtual_tokens": 4},
            {"kind": "prefix_tuning", "num_virtual_tokens": 4, "prefix_projection": False},
        ),
    ],
    ids=lambda case: case_name(case),
)
def test_a_method_starts_as_the_earlier_one_ended_and_trains_on(
    base: BaseModel, tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    source, ended = earlier(before, base, tmp_path / "earlier")
    rehearsed(after, base, source)
    _, model = started(after, base, source)
    assert difference(logits(model), ended) < 1e-6
    train(model.train(), steps=1)
    assert difference(logits(model), ended) > 1e-4


def test_ranks_that_were_pruned_stay_pruned_and_can_grow_again(base: BaseModel, tmp_path: Path) -> None:
    settings = {"kind": "adalora", "init_r": 6, "target_r": 2}
    method, model = attached(settings, base)
    train(model)
    for name, part in model.named_parameters():
        if ".lora_E." in name:
            part.data[[0, 2]] = 0.0
    save(method, model, tmp_path)
    ended = logits(model)
    _, again = started(settings, base, source_of(tmp_path, base))
    assert difference(logits(again), ended) < 1e-6
    assert all((part == 0).sum() == 2 for name, part in again.named_parameters() if ".lora_E." in name)
    assert all((part != 0).all() for name, part in again.named_parameters() if ".lora_A." in name)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (LORA, LORA | {"r": 2, "lora_alpha": 8}, r"\[4, 64\] in the earlier result and \[2, 64\] here\. Set r: 4"),
        (LORA, LORA | {"lora_alpha": 16}, r"lora_alpha 8\.0, this method 16\.0.*Set lora_alpha: 8\.0"),
        (LORA, LORA | {"use_rslora": True}, r"Set use_rslora: False"),
        (LORA, LORA | {"target_modules": ["q_proj"]}, r"only the earlier result has .*v_proj.*targets"),
        (LORA, LORA | {"target_modules": ["q_proj", "v_proj", "o_proj"]}, r"only the method with these settings has"),
        (LORA, {"kind": "ia3"}, r"type LORA, not IA3.*kind of method"),
        ({"kind": "p_tuning"}, {"kind": "p_tuning"}, r"the finished ones only.*prompt_tuning after p_tuning"),
        ({"kind": "prefix_tuning"}, {"kind": "prefix_tuning"}, r"the finished ones only.*prefix_projection: false"),
        (
            {"kind": "prompt_tuning", "num_virtual_tokens": 4},
            {"kind": "prompt_tuning", "num_virtual_tokens": 5},
            r"Set num_virtual_tokens: 4",
        ),
        ({"kind": "prefix_tuning"}, {"kind": "prompt_tuning"}, r"PREFIX_TUNING, not PROMPT_TUNING"),
        (
            {"kind": "adalora", "init_r": 6, "target_r": 2},
            {"kind": "adalora", "init_r": 4, "target_r": 2},
            r"init_r 6, this method 4.*Set init_r: 6",
        ),
    ],
    ids=lambda case: case_name(case) if isinstance(case, dict) else "",
)
def test_what_would_not_be_the_same_function_is_refused_with_the_way_out(
    base: BaseModel, tmp_path: Path, before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    source, _ = earlier(before, base, tmp_path / "earlier")
    with pytest.raises(ConfigError, match=message) as caught:
        started(after, base, source)
    assert caught.value.exit_code == 10
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError) as early:
        rehearsed(after, base, source)
    assert str(early.value) == str(caught.value), "the same words before the base is loaded"


def test_a_folder_without_an_adapter_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"adapter_config\.json is missing"):
        started(LORA, base, source_of(tmp_path, base))


def test_an_adapter_of_another_base_is_refused_before_the_base_is_loaded(base: BaseModel, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens")
    source = source_of(tmp_path, base).model_copy(update={"base_digest": "f" * 64})
    with pytest.raises(ConfigError, match=r"another base \(ffffffffffff\) than .*Set model\.name_or_path"):
        cell_from(source, base, tokens, LORA)
    cell_from(source.model_copy(update={"base_digest": ""}), base, tokens, LORA)


def cell_from(source: Source, base: BaseModel, tokens: Artifact, settings: dict[str, Any]) -> Any:
    conditions = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
    spec = CellSpec(label="x", method=settings | {"init_from": "runs/1"}, seed=0, sources={INIT_FROM: source})
    return plan_cell(spec, base, tokens, QUICK, conditions)


def test_a_whole_cell_goes_on_from_an_earlier_one(base: BaseModel, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens")
    source, _ = earlier({"kind": "lora", "r": 4, "init_lora_weights": "eva"}, base, tmp_path / "earlier")
    losses = []
    for name, cell in (
        ("on", cell_from(source, base, tokens, {"kind": "lora", "r": 4})),
        ("new", cell_from(source, base, tokens, {"kind": "lora", "r": 4}).model_copy(update={"sources": {}})),
    ):
        losses.append(trained(request_in(tmp_path / name, cell)).train_loss)
    assert losses[0] != losses[1]
