"""What cannot work is refused before the model is loaded, in one line with the way out; all the rest works."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from tasks.data.collate import Collator
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import Conditions, Method, parse_method, refuse_quantization
from tasks.models import BaseModel
from tasks.models.values import Quantization
from tasks.training.engines import ENGINES, refuse_engine
from tasks.training.settings import TrainingSettings
from tasks.training.shards import gather
from tests.methods.cases import (
    Settings,
    attached,
    case_name,
    features,
    fit,
    minimal,
    train,
    trainable_cases,
    without_dropout,
)
from tests.methods.support import REFUSED
from tests.models.tiny import token_batch
from tests.training.layouts import layout_of

every_case = pytest.mark.parametrize("settings", trainable_cases(), ids=case_name)
PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
QUANTIZATIONS = {
    "nf4": Quantization(bits=4),
    "fp4": Quantization(bits=4, quant_type="fp4"),
    "int8": Quantization(bits=8),
}


def refusal(method: Method, base: BaseModel, conditions: Conditions) -> ConfigError | None:
    """What `check` has against it, one line that says where and what to do; None where it has nothing."""
    try:
        method.check(base.facts, conditions)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(f"methods[{method.label}]")
        assert re.search(r"Set|Lower|Take|Remove|Use", str(error))
        return error
    return None


@every_case
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_quantised_base_trains_or_is_refused_before_it_is_loaded(
    settings: Settings, name: str, base: BaseModel
) -> None:
    held = base.model_copy(update={"quantization": QUANTIZATIONS[name]})
    method = parse_method(settings)
    try:
        refuse_quantization(method, held.quantization)
    except ConfigError as error:
        assert re.search(rf"methods\[{method.label}\].* {name}.*(Remove|Take)", str(error))
        return
    if refusal(method, base, PLAIN.model_copy(update={"quantization": held.quantization})):
        return
    method, model = attached(settings, held)
    before = {name: part.detach().clone() for name, part in model.named_parameters()}
    train(model, method=method)
    moved = {name for name, part in model.named_parameters() if not torch.equal(part, before[name])}
    assert moved == {name for name, part in model.named_parameters() if part.requires_grad}


@every_case
def test_packed_rows_train_as_padded_ones_or_packing_is_refused(settings: Settings, base: BaseModel) -> None:
    if refusal(parse_method(settings), base, PLAIN.model_copy(update={"packing": True})):
        return
    method, model = attached(without_dropout(settings), base)
    fit(method, model, features(token_batch()), [1e-2] * 3)  # a new adapter would change nothing
    model.eval()
    model.config.use_cache = False  # as in training
    rows = [row.tolist() for row in token_batch()]
    labels = [[-100, *row[1:]] for row in rows]
    padded = Collator(0)([{"input_ids": row, "labels": said} for row, said in zip(rows, labels, strict=True)])
    packed = Collator(0)(
        [
            {"input_ids": row, "labels": said, "position_ids": list(range(len(row)))}
            for row, said in zip(rows, labels, strict=True)
        ]
    )
    with torch.no_grad():
        losses = [
            float(cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()))
            for batch in (padded, packed)
        ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    "settings", [case for case in trainable_cases() if case == minimal(case["kind"])], ids=case_name
)
def test_rows_as_long_as_the_context_train_or_are_refused(
    settings: Settings, family_of: Callable[[str], BaseModel]
) -> None:
    """On a GPT-2, whose learnt positions end where its context does: a virtual token too many finds none."""
    base = family_of("gpt2")
    context = base.facts.max_position_embeddings
    if refusal(parse_method(settings), base, PLAIN.model_copy(update={"max_seq_length": context})):
        return
    if reason := REFUSED.get(str(settings["kind"]), {}).get("gpt2"):
        with pytest.raises(ConfigError, match=reason):
            attached(settings, base)
        return
    method, model = attached(settings, base)
    fit(method, model, features(token_batch(rows=1, tokens=context)), [1e-3] * 4)
    assert all(bool(part.isfinite().all()) for part in model.parameters() if part.is_floating_point())


@every_case
def test_an_engine_is_refused_with_those_that_are_left(settings: Settings) -> None:
    method = parse_method(settings)
    refused = [engine for engine in ENGINES if method.refuses_engine(engine)]
    assert set(method.info.refuses) <= set(ENGINES)
    assert len(refused) < len(ENGINES)
    for engine in refused:
        with pytest.raises(ConfigError, match=rf"{method.kind} cannot train under {engine}: .*Allowed: "):
            refuse_engine(method, TrainingSettings(), layout_of(engine, 2))


def test_a_tensor_that_an_engine_left_empty_is_never_saved(base: BaseModel) -> None:
    """ZeRO-3 leaves parameters of size 0 behind: saved as they are, the adapter would be nothing."""
    _, model = attached({"kind": "lora", "r": 4}, base)
    name, part = next((name, part) for name, part in model.named_parameters() if part.requires_grad)
    part.ds_numel = part.numel()
    part.data = part.data.new_empty(0)
    with pytest.raises(IntegrityError, match=rf"{name} has 0 of its 256 values"):
        gather(model, frozen=False)
