"""P-tuning v2 is a prefix without an MLP, and what is saved is what trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.foundation.errors import ConfigError
from tasks.methods import Conditions, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import attached, logits, save, train


def test_only_keys_and_values_train_two_per_token_layer_and_head_dimension(base: BaseModel) -> None:
    _, model = attached({"kind": "p_tuning_v2", "num_virtual_tokens": 5}, base)
    trainable = {name: part.numel() for name, part in model.named_parameters() if part.requires_grad}
    layers, key_value_heads, head_dimension = 2, 2, 16
    assert trainable == {"prompt_encoder.default.embedding.weight": 2 * 5 * layers * key_value_heads * head_dimension}


def test_what_trained_is_saved_as_it_is(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached({"kind": "p_tuning_v2", "num_virtual_tokens": 5}, base)
    train(model)
    save(method, model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert stored.keys() == {"prompt_embeddings"}
    assert torch.equal(stored["prompt_embeddings"], model.prompt_encoder["default"].embedding.weight)


def test_it_is_the_attention_over_its_keys_and_values_before_those_of_the_input(base: BaseModel) -> None:
    """The reference: the same cache, handed to the base itself."""
    from transformers import DynamicCache

    _, model = attached({"kind": "p_tuning_v2", "num_virtual_tokens": 3}, base)
    rows = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(3))
    prefix = model.prompt_encoder["default"].embedding.weight.detach().view(3, 4, 2, 16)  # [P, 2 L, heads, d]
    layers = [
        tuple(prefix[:, 2 * layer + side].transpose(0, 1)[None].repeat(2, 1, 1, 1) for side in (0, 1))
        for layer in (0, 1)
    ]
    with torch.no_grad():
        mask = torch.ones(2, 15, dtype=torch.long)
        expected = load_base(base)(input_ids=rows, attention_mask=mask, past_key_values=DynamicCache(layers)).logits
    torch.testing.assert_close(logits(model), expected)


def test_checkpointing_packing_and_a_full_context_are_refused(base: BaseModel) -> None:
    method = parse_method({"kind": "p_tuning_v2", "num_virtual_tokens": 24})
    plain = {"gradient_checkpointing": False, "packing": False, "max_seq_length": 32}
    method.check(base.facts, Conditions(**plain))
    for change, message in (
        ({"gradient_checkpointing": True}, "gradient_checkpointing: false"),
        ({"packing": True}, "packing: false"),
        ({"max_seq_length": 41}, "at most 23"),
    ):
        with pytest.raises(ConfigError, match=message):
            method.check(base.facts, Conditions(**plain | change))
    assert method.unmergeable()
