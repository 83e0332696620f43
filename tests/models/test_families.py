from __future__ import annotations

from pathlib import Path

import pytest

from tasks.models.loading import load_base, load_tokenizer
from tests.models.families import FAMILIES, HIDDEN, LAYERS, family_base
from tests.models.tiny import VOCABULARY, token_batch


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_of_every_family_is_the_same_each_time_and_runs(family: str, tmp_path: Path) -> None:
    base, again = (family_base(tmp_path / name, family) for name in ("one", "two"))
    assert base.digest == again.digest
    assert base.facts.model_type == family
    assert (base.facts.num_hidden_layers, base.facts.hidden_size, base.facts.vocab_size) == (LAYERS, HIDDEN, VOCABULARY)
    model, ids = load_base(base), token_batch()
    assert base.facts.parameters == sum(part.numel() for part in model.parameters())
    assert model(input_ids=ids).logits.shape == (*ids.shape, VOCABULARY)
    assert len(load_tokenizer(base)) == VOCABULARY
