from __future__ import annotations

from pathlib import Path

import pytest

from tasks.merging import MergeSettings
from tasks.merging.outcome import unmerged_cell
from tasks.methods import Candidate, Holds
from tasks.models import BaseModel, BaseModelFacts

FACTS = BaseModelFacts(
    model_type="llama",
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=128,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    parameters=1,
    dtype="float32",
)
BASE = BaseModel(name="x", path=Path("x"), digest="d", tokenizer_digest="t", facts=FACTS)


@pytest.mark.parametrize(
    ("kind", "holds", "enabled", "outcome"),
    [
        ("none", "nothing", True, "not_needed"),
        ("full", "model", True, "not_needed"),
        ("prefix_tuning", "adapter", True, "cannot"),
        ("lora", "adapter", False, "disabled"),
        ("lora", "adapter", True, None),
    ],
)
def test_what_is_not_merged_goes_on_as_it_is_and_says_why(
    kind: str, holds: Holds, enabled: bool, outcome: str | None
) -> None:
    candidate = Candidate(label="x", base=BASE, method={"kind": kind}, holds=holds)
    cell = unmerged_cell(candidate, "digest", MergeSettings(enabled=enabled))
    assert (cell.outcome if cell else None) == outcome
    if cell is not None:
        assert cell.candidate == candidate
        assert bool(cell.reason) == (outcome != "not_needed")
