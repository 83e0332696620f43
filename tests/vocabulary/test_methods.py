"""Every method works on an extended base as it is: it trains, merges, reloads, and the new tokens live on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.artifacts import Artifact
from tasks.foundation.digests import digest_file
from tasks.merging import MergeSettings
from tasks.merging.merge import merge
from tasks.methods import Candidate
from tasks.methods.loading import load_candidate
from tasks.models import BaseModel, Quantization
from tasks.models.loading import load_base
from tasks.registry.contents import fill
from tasks.registry.values import RegisterRequest
from tests.merging.test_merge import write_rows
from tests.methods.cases import attached, save
from tests.vocabulary.worlds import base_in, extended, write_base

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def more(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("more")
    base = base_in(write_base(folder / "base", tied=request.param))
    found, _ = extended(base, folder, train={"size": 12}, steps=5, learning_rate=0.05, max_length=32)
    return found


def new_ids(base: BaseModel) -> torch.Tensor:
    """[2, 12], new tokens only."""
    return torch.arange(base.facts.vocab_size - 12, base.facts.vocab_size).repeat(2, 1)


def tuned(method: dict[str, Any], base: BaseModel, folder: Path) -> tuple[Candidate, torch.Tensor]:
    """A candidate after three steps on the new tokens, and its logits [2, 12, vocabulary] there."""
    kind, model = attached(method, base)
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-2)
    ids = new_ids(base)
    for _ in range(3):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder.mkdir()
    save(kind, model, folder)
    weights = Candidate(label="x", base=base, method=kind.model_dump(), weights=folder, holds=kind.info.holds)
    return weights, scores(model, base)


def scores(model: Any, base: BaseModel) -> torch.Tensor:
    ids = new_ids(base)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found[:, -12:]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max() / other.abs().max()) <= 1e-5


def is_one_tensor(folder: Path) -> bool:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def eval_rows(base: BaseModel, folder: Path) -> Artifact:
    ids = new_ids(base)[0].tolist()
    folder.mkdir()
    write_rows(folder / "eval.arrow", {"id": [f"{row:064x}" for row in range(4)], "input_ids": [ids] * 4})
    return Artifact(step="tokenize", key="k", path=folder, digest="d")


def test_a_merged_adapter_is_a_model_with_the_new_tokens(more: BaseModel, tmp_path: Path) -> None:
    candidate, expected = tuned({"kind": "lora", "r": 4}, more, tmp_path / "adapter")
    out = tmp_path / "merged"
    out.mkdir()
    proof = merge(candidate, eval_rows(more, tmp_path / "rows"), MergeSettings(rows=4), out)
    assert proof.survives
    folder = out / "model"
    assert close(scores(AutoModelForCausalLM.from_pretrained(folder), more), expected)
    assert is_one_tensor(folder) == more.facts.tie_word_embeddings
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert digest_file(folder / name) == digest_file(more.path / name)
    assert embedding_of(folder)[-12:].equal(embedding_of(more.path)[-12:])


def embedding_of(folder: Path) -> torch.Tensor:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        rows: torch.Tensor = file.get_tensor(EMBEDDING)
    return rows


def test_a_fully_tuned_model_keeps_tokenizer_and_ties(more: BaseModel, tmp_path: Path) -> None:
    candidate, expected = tuned({"kind": "full"}, more, tmp_path / "model")
    folder = tmp_path / "model"
    assert close(scores(load_candidate(candidate), more), expected)
    assert is_one_tensor(folder) == more.facts.tie_word_embeddings
    assert embedding_of(folder).shape == embedding_of(more.path).shape
    assert digest_file(folder / "tokenizer.json") == digest_file(more.path / "tokenizer.json")
    text = "the Wildwood café"
    assert (
        AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
        == AutoTokenizer.from_pretrained(more.path)(text)["input_ids"]
    )


@pytest.mark.parametrize("kind", ["lora", "qlora", "ia3", "prompt_tuning", "prefix_tuning", "p_tuning"])
def test_an_adapter_of_each_family_trains_and_reloads_on_the_extended_base(
    kind: str, more: BaseModel, tmp_path: Path
) -> None:
    candidate, expected = tuned({"kind": kind}, more, tmp_path / "adapter")
    assert close(scores(load_candidate(candidate), more), expected)


@pytest.mark.parametrize("quantization", [Quantization(bits=4), Quantization(bits=8)], ids=lambda q: q.name)
def test_a_quantised_extended_base_is_the_float_files_in_fewer_bits(
    quantization: Quantization, more: BaseModel
) -> None:
    model = load_base(more, quantization=quantization)
    assert type(model.model.layers[0].mlp.up_proj).__name__.startswith("Linear")
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert torch.isfinite(scores(model, more)).all()


def test_a_hub_base_that_was_extended_is_packed_whole_not_named_by_its_revision(
    more: BaseModel, tmp_path: Path
) -> None:
    """The hub has the base without the new tokens: an adapter on it would meet other rows."""
    hub = more.model_copy(update={"name": "org/tiny", "revision": "0a" * 20, "new_tokens": 12})
    candidate, _ = tuned({"kind": "lora", "r": 4}, hub, tmp_path / "adapter")
    packed = {}
    for name, base in (("extended", hub), ("as it was", hub.model_copy(update={"new_tokens": 0}))):
        folder = tmp_path / name
        folder.mkdir()
        fill(RegisterRequest.model_construct(**request_of(candidate.model_copy(update={"base": base}))), folder)
        packed[name] = json.loads((folder / "serving.json").read_text())["base"]
    assert packed["extended"] == {"folder": "base", "hub": "", "revision": ""}
    assert packed["as it was"]["hub"] == "org/tiny"
    assert digest_file(tmp_path / "extended" / "base" / "tokenizer.json") == digest_file(more.path / "tokenizer.json")


def request_of(candidate: Candidate) -> dict[str, Any]:
    from tasks.data.settings import DataSettings

    return {"candidate": candidate, "data": DataSettings(train="rows.jsonl"), "max_new_tokens": 4}
