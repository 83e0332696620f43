from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, parse_method
from tasks.models import BaseModel, ModelSettings, read_header, resolve_base
from tests.methods.cases import attached, logits, save, train

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=32)


def trainable(model: nn.Module) -> set[str]:
    return {name for name, part in model.named_parameters() if part.requires_grad}


def test_full_trains_every_parameter(base: BaseModel) -> None:
    _, model = attached({"kind": "full"}, base)
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_freeze_trains_the_last_blocks(base: BaseModel) -> None:
    _, model = attached({"kind": "freeze", "num_layers": 1}, base)
    assert trainable(model) == {name for name, _ in model.named_parameters() if name.startswith("model.layers.1.")}


def test_freeze_adds_named_modules_and_the_head(base: BaseModel) -> None:
    settings = {"kind": "freeze", "num_layers": 0, "modules": ["model.norm", "self_attn.q_proj"], "head": True}
    _, model = attached(settings, base)
    queries = {f"model.layers.{block}.self_attn.q_proj.weight" for block in (0, 1)}
    assert trainable(model) == {"model.norm.weight", "model.embed_tokens.weight"} | queries


def test_freeze_refuses_what_the_model_does_not_have(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match=r"'query' matches no module with weights.*q_proj"):
        attached({"kind": "freeze", "modules": ["query"]}, base)
    with pytest.raises(ConfigError, match="the model has 2 blocks"):
        parse_method({"kind": "freeze", "num_layers": 3}).check(base.facts, PLAIN)


@pytest.mark.parametrize("kind", ["full", "freeze"])
def test_the_saved_model_is_complete_tied_and_in_the_dtype_of_the_checkpoint(
    half_base: BaseModel, tmp_path: Path, kind: str
) -> None:
    method, model = attached({"kind": kind}, half_base)
    train(model)
    save(method, model, tmp_path)
    saved = resolve_base(ModelSettings(name_or_path=str(tmp_path)))
    assert saved.facts == half_base.facts
    assert saved.tokenizer_digest == half_base.tokenizer_digest
    assert (tmp_path / "config.json").read_bytes() == (half_base.path / "config.json").read_bytes()
    assert (
        read_header(tmp_path / "model.safetensors").keys() == read_header(half_base.path / "model.safetensors").keys()
    )


def test_the_saved_16_bit_model_is_the_trained_one_up_to_rounding(half_base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({"kind": "full"}, half_base)
    train(model)
    save(method, model, tmp_path)
    trained = logits(model)
    loaded = logits(method.load(model, tmp_path))
    assert float((loaded - trained).abs().max() / trained.abs().max()) < 2e-2
    assert next(model.parameters()).dtype == torch.float32


def test_none_cannot_be_trained(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match="nothing would train"):
        attached({"kind": "none"}, base)
