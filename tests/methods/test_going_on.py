"""Every kind of adapter goes on from an earlier one of its own, or says what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.foundation.errors import ConfigError
from tasks.methods import INIT_FROM, Source, Supplies, parse_method
from tasks.models import BaseModel
from tasks.models.skeleton import skeleton
from tests.methods.cases import (
    Settings,
    attached,
    case_name,
    logits,
    save,
    supplies,
    train,
    trainable_cases,
    unattached,
    without_dropout,
)
from tests.methods.conftest import Homes

MADE_ANEW: Mapping[str, str] = {
    "prefix_tuning": "prefix_projection: false",
    "mam_adapter": "prefix_projection: false",
    "p_tuning": "prompt_tuning after p_tuning",
}
"""Kind -> the way out where an encoder that was not saved made the virtual tokens."""
ADAPTERS = [case for case in trainable_cases() if parse_method(case).holds == "adapter"]


def says(settings: Settings) -> str:
    """What the refusal of these settings names; empty where they go on."""
    if settings.get("init_lora_weights") in ("pissa", "pissa_niter_4", "olora", "corda", "eva"):
        return "Remove one"
    if settings.get("prefix_projection") is False:
        return ""
    return MADE_ANEW.get(str(settings["kind"]), "")


def trained(settings: Settings, base: BaseModel, folder: Path) -> tuple[Source, torch.Tensor]:
    """What three steps left, and its logits."""
    method, model = attached(settings, base)
    train(model, method=method)
    folder.mkdir()
    save(method, model, folder)
    made_by = method.model_dump(mode="json")
    source = Source(
        reference="runs/1", path=folder, digest="d", holds="adapter", base_digest=base.digest, method=made_by
    )
    return source, logits(model)


def started(settings: Settings, base: BaseModel, source: Source) -> torch.nn.Module:
    """The method put where the source ended, on a fresh base and with other random numbers."""
    method = parse_method({**settings, INIT_FROM: source.reference})
    given = supplies(parse_method(settings), base)
    model = unattached(method, base)
    torch.manual_seed(5)
    model = method.attach(model, Supplies({**given.sources, INIT_FROM: source}, given.batches, 5, base))
    method.start_from(model, source)
    return model


def rehearsed(settings: Settings, base: BaseModel, source: Source) -> str:
    """What the rehearsal refuses; empty where it has nothing to say."""
    given = supplies(parse_method(settings), base)
    try:
        method = parse_method({**settings, INIT_FROM: source.reference})
        method.rehearse_start(skeleton(base.path), Supplies({**given.sources, INIT_FROM: source}, seed=5, base=base))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("settings", ADAPTERS, ids=case_name)
def test_its_own_result_is_where_it_starts_or_it_says_what_to_do(
    settings: Settings, home_of: Homes, tmp_path: Path
) -> None:
    """And a rehearsal without weights says the same words, or nothing where it goes on."""
    calm, home = without_dropout(settings), home_of(settings)
    source, ended = trained(calm, home, tmp_path / "earlier")
    if way_out := says(settings):
        with pytest.raises(ConfigError, match=way_out) as caught:
            started(calm, home, source)
        assert rehearsed(calm, home, source) == str(caught.value)
        return
    assert rehearsed(calm, home, source) == ""
    model = started(calm, home, source)
    assert float((logits(model) - ended).abs().max() / ended.abs().max()) <= 1e-6
    assert any(part.requires_grad for part in model.parameters())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"kind": "distillation", "student": {"kind": "lora", "r": 4}}, {"kind": "lora", "r": 4}),
        ({"kind": "lora", "r": 4}, {"kind": "distillation", "student": {"kind": "lora", "r": 4}}),
        ({"kind": "lora", "r": 8}, {"kind": "progressive_shrinking", "r": 8, "ranks": [8, 2]}),
        ({"kind": "progressive_shrinking", "r": 8, "ranks": [8, 2]}, {"kind": "lora", "r": 8}),
        ({"kind": "adapter", "variant": "pfeiffer"}, {"kind": "adapter_drop", "variant": "pfeiffer"}),
    ],
    ids=lambda case: case_name(case),
)
def test_kinds_that_leave_the_same_adapter_go_on_from_each_other(
    before: dict[str, Any], after: dict[str, Any], base: BaseModel, tmp_path: Path
) -> None:
    source, ended = trained(without_dropout(before), base, tmp_path / "earlier")
    assert rehearsed(without_dropout(after), base, source) == ""
    model = started(without_dropout(after), base, source)
    assert float((logits(model) - ended).abs().max() / ended.abs().max()) <= 1e-6


def test_what_began_with_loftq_goes_on_as_loftq_and_is_never_merged(base: BaseModel, tmp_path: Path) -> None:
    loftq = {"kind": "qlora", "r": 4, "lora_dropout": 0.0, "init_lora_weights": "loftq"}
    source, _ = trained(loftq, base, tmp_path / "earlier")
    with pytest.raises(ConfigError, match=r"is a LoftQ adapter.*Set init_lora_weights: loftq"):
        started({**loftq, "init_lora_weights": True}, base, source)
    assert "LoftQ" in parse_method({**loftq, INIT_FROM: "runs/1"}).unmergeable()
