from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError, DataError, IntegrityError, ModelError
from tasks.merging import MergeProof, MergeSettings
from tasks.merging.merge import merge, merge_key, write_merged
from tasks.merging.outcome import merged_cell
from tasks.merging.proof import proof_rows, prove
from tasks.methods import Candidate
from tasks.models import BaseModel, read_header, weight_files
from tests.methods.cases import Settings, attached, case_name, save, train
from tests.models.tiny import tiny_base, write_tiny_llama

MERGEABLE: tuple[Settings, ...] = (
    {"kind": "lora", "r": 4},
    {"kind": "lora", "r": 4, "use_dora": True},
    {"kind": "lora", "r": 4, "use_rslora": True},
    {"kind": "lora", "r": 4, "layers_to_transform": [1], "init_lora_weights": "orthogonal"},
    {"kind": "lora", "r": 6, "init_lora_weights": "pissa", "use_rslora": True},
    {"kind": "lora", "r": 4, "init_lora_weights": "eva", "use_dora": True},
    {"kind": "adalora", "init_r": 6, "target_r": 2},
    {"kind": "qlora", "r": 4},
    {"kind": "ia3"},
    {"kind": "distillation", "student": {"kind": "lora", "r": 4}},
    {"kind": "progressive_shrinking", "r": 4},
    {"kind": "peft_config", "config": {"peft_type": "LN_TUNING"}},
)
OWN: tuple[Settings, ...] = (
    {"kind": "bitfit"},
    {"kind": "adapter", "bottleneck_size": 8, "non_linearity": "identity", "bias": False},
)
"""Those that PEFT does not know: their own tests hold them against their formulas."""
every_mergeable = pytest.mark.parametrize("settings", MERGEABLE, ids=case_name)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact `tokenize` with 12 evaluation rows."""
    folder = tmp_path_factory.mktemp("tokens")
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 128, (8 + row,), generator=generator).tolist() for row in range(12)]
    write_rows(folder / "eval.arrow", {"id": [f"{(row * 7) % 12:064x}" for row in range(12)], "input_ids": ids})
    return Artifact(step="tokenize", key="k", path=folder, digest="d")


def write_rows(path: Path, columns: dict[str, Any]) -> None:
    table = pyarrow.table(columns)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def trained(settings: Settings, base: BaseModel, folder: Path) -> Candidate:
    """A candidate whose adapter was trained for three steps and saved in `folder`."""
    method, model = attached(settings, base)
    train(model)
    folder.mkdir(parents=True)
    save(method, model, folder)
    return Candidate(label=method.label, base=base, method=method.model_dump(), weights=folder, holds="adapter")


def peft_merged(candidate: Candidate) -> dict[str, torch.Tensor]:
    """PEFT's own merge of the same adapter into the float base."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(candidate.base.path), candidate.weights)
    state: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return state


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(folder / file).items()}


def names_and_dtypes(folder: Path) -> dict[str, str]:
    return {name: entry.dtype for file in weight_files(folder) for name, entry in read_header(folder / file).items()}


@every_mergeable
def test_the_merge_is_peft_s_own_to_the_last_bit(settings: Settings, base: BaseModel, tmp_path: Path) -> None:
    candidate = trained(settings, base, tmp_path / "adapter")
    write_merged(candidate, MergeSettings(), tmp_path / "model")
    expected = peft_merged(candidate)
    merged = stored(tmp_path / "model")
    assert merged.keys() == stored(base.path).keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    assert any(not torch.equal(tensor, merged[name]) for name, tensor in stored(base.path).items())


@pytest.mark.parametrize("settings", [*MERGEABLE, *OWN], ids=case_name)
def test_a_right_merge_is_proven(settings: Settings, tokens: Artifact, tmp_path: Path) -> None:
    base = tiny_base(write_tiny_llama(tmp_path / "base", biases=True))
    candidate = trained(settings, base, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    proof = merge(candidate, tokens, MergeSettings(rows=5), tmp_path / "out")
    assert proof.largest_difference <= proof.tolerance == 1e-5
    assert (proof.rows, proof.tokens, proof.same_argmax, proof.dtype) == (5, proof.tokens, 1.0, "float32")
    assert proof.adapter_effect > 1e-4
    assert MergeProof.model_validate_json((tmp_path / "out" / "proof.json").read_text()) == proof
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model", "proof.json"]


def test_the_merged_folder_is_a_standard_model_like_the_base(base: BaseModel, tmp_path: Path) -> None:
    write_merged(trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter"), MergeSettings(), tmp_path / "model")
    merged = tiny_base(tmp_path / "model")
    assert merged.facts == base.facts
    assert merged.tokenizer_digest == base.tokenizer_digest
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {path.name for path in base.path.iterdir()}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_same_adapter_merges_to_the_same_bytes(base: BaseModel, tmp_path: Path) -> None:
    candidate = trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter")
    digests = set()
    for name in ("one", "two"):
        write_merged(candidate, MergeSettings(), tmp_path / name)
        digests.add(tiny_base(tmp_path / name).digest)
    assert len(digests) == 1


def test_shards_stay_below_the_limit_whatever_shards_the_base_has(base: BaseModel, tmp_path: Path) -> None:
    sharded = tiny_base(write_tiny_llama(tmp_path / "sharded", shard_size="100KB"))
    assert len(weight_files(sharded.path)) > 2
    candidate = trained({"kind": "lora", "r": 4}, sharded, tmp_path / "adapter")
    write_merged(candidate, MergeSettings(max_shard_bytes=60_000), tmp_path / "small")
    write_merged(candidate, MergeSettings(), tmp_path / "whole")
    sizes = [(tmp_path / "small" / file).stat().st_size for file in weight_files(tmp_path / "small")]
    assert len(sizes) > 5
    assert max(sizes) < 60_000 + 4096
    assert weight_files(tmp_path / "whole") == ("model.safetensors",)
    small, whole = stored(tmp_path / "small"), stored(tmp_path / "whole")
    assert small.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in small.items())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").num_parameters() == base.facts.parameters


def test_a_16_bit_base_stays_16_bit_and_is_proven_with_its_tolerance(tokens: Artifact, tmp_path: Path) -> None:
    base = tiny_base(write_tiny_llama(tmp_path / "half", dtype="bfloat16"))
    candidate = trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    proof = merge(candidate, tokens, MergeSettings(), tmp_path / "out")
    assert (proof.tolerance, proof.dtype) == (2e-2, "bfloat16")
    assert 0 < proof.largest_difference <= 2e-2
    assert names_and_dtypes(tmp_path / "out" / "model") == names_and_dtypes(base.path)


@pytest.mark.parametrize(("dtype", "outcome"), [("bfloat16", "cannot"), ("float32", "merged")])
def test_an_adapter_that_rounding_would_swallow_goes_on_unmerged(
    dtype: str, outcome: str, tokens: Artifact, tmp_path: Path
) -> None:
    base = tiny_base(write_tiny_llama(tmp_path / "base", dtype=dtype))
    candidate = trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * (1e-3 if "lora_B" in name else 1) for name, tensor in load_file(file).items()}, file)
    (tmp_path / "out").mkdir()
    proof = merge(candidate, tokens, MergeSettings(), tmp_path / "out")
    artifact = Artifact(step="merge", key="k", path=tmp_path / "out", digest="d")
    cell = merged_cell(candidate, "weights", artifact)

    assert proof.largest_difference <= proof.tolerance
    assert proof.adapter_effect > 0
    assert cell.outcome == outcome
    assert (tmp_path / "out" / "model").exists() == (outcome == "merged")
    if outcome == "cannot":
        assert "rounding to bfloat16" in cell.reason
        assert (cell.candidate, cell.weights_digest) == (candidate, "weights")


def test_layers_of_another_orientation_and_with_biases_merge_too(tokens: Artifact, tmp_path: Path) -> None:
    """GPT-2 keeps [in, out] weights with biases, and IA3 scales the bias as well."""
    folder = write_tiny_llama(tmp_path / "gpt2")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    base = tiny_base(folder)
    for settings in ({"kind": "lora", "r": 4}, {"kind": "ia3"}):
        candidate = trained(settings, base, tmp_path / settings["kind"] / "adapter")
        merge(candidate, tokens, MergeSettings(), tmp_path / settings["kind"])
        merged, expected = stored(tmp_path / settings["kind"] / "model"), peft_merged(candidate)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    assert not torch.equal(
        merged["transformer.h.0.attn.c_attn.bias"], stored(folder)["transformer.h.0.attn.c_attn.bias"]
    )


def test_an_adapter_on_an_untied_output_layer_merges(tokens: Artifact, tmp_path: Path) -> None:
    base = tiny_base(write_tiny_llama(tmp_path / "untied", tied=False))
    candidate = trained({"kind": "lora", "r": 4, "target_modules": ["lm_head", "q_proj"]}, base, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    merge(candidate, tokens, MergeSettings(), tmp_path / "out")
    assert not torch.equal(stored(tmp_path / "out" / "model")["lm_head.weight"], stored(base.path)["lm_head.weight"])


def test_one_wrong_weight_on_disk_fails_the_proof(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    candidate = trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter")
    write_merged(candidate, MergeSettings(), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 0.5
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    with pytest.raises(IntegrityError, match=r"logits differ by \d\.\d+e-\d+ .* tolerance is 1e-05") as caught:
        prove(candidate, tokens, MergeSettings(), tmp_path / "model")
    assert caught.value.exit_code == 40
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == before


def test_a_merge_with_the_wrong_alpha_fails_the_proof(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    candidate = trained({"kind": "lora", "r": 4, "lora_alpha": 8}, base, tmp_path / "adapter")
    wrong = trained({"kind": "lora", "r": 4, "lora_alpha": 8}, base, tmp_path / "wrong")
    config = json.loads((tmp_path / "wrong" / "adapter_config.json").read_text())
    (tmp_path / "wrong" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8.1}))
    write_merged(wrong, MergeSettings(), tmp_path / "model")
    with pytest.raises(IntegrityError, match="is not base"):
        prove(candidate, tokens, MergeSettings(), tmp_path / "model")


def test_logits_that_are_not_numbers_fail_the_proof(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    candidate = trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter")
    write_merged(candidate, MergeSettings(), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="nan"):
        prove(candidate, tokens, MergeSettings(), tmp_path / "model")


def test_the_tolerance_is_a_setting(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    candidate = trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter")
    write_merged(candidate, MergeSettings(), tmp_path / "model")
    with pytest.raises(IntegrityError, match="tolerance is 1e-12"):
        prove(candidate, tokens, MergeSettings(tolerance=1e-12), tmp_path / "model")


def test_rows_are_chosen_by_their_content_hash(tokens: Artifact) -> None:
    rows = proof_rows(tokens.path / "eval.arrow", 3)
    assert [len(row) for row in rows] == [8 + row for row in sorted(range(12), key=lambda row: (row * 7) % 12)[:3]]


def test_a_proof_needs_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "eval.arrow", {"id": pyarrow.array([], "string"), "input_ids": pyarrow.array([], "int64")})
    with pytest.raises(DataError, match="no evaluation rows"):
        proof_rows(tmp_path / "eval.arrow", 3)


def test_methods_that_cannot_merge_are_refused(base: BaseModel, tmp_path: Path) -> None:
    candidate = trained({"kind": "prompt_tuning"}, base, tmp_path / "adapter")
    with pytest.raises(ConfigError, match="cannot be merged"):
        write_merged(candidate, MergeSettings(), tmp_path / "model")


def test_a_base_that_stores_its_weights_under_other_names_is_refused(base: BaseModel, tmp_path: Path) -> None:
    candidate = trained({"kind": "lora", "r": 4}, base, tmp_path / "adapter")
    folder = write_tiny_llama(tmp_path / "renamed")
    tensors = {
        name.replace("up_proj", "gate_up"): part for name, part in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    renamed = candidate.model_copy(update={"base": candidate.base.model_copy(update={"path": folder})})
    with pytest.raises(ModelError, match=r"up_proj.*merge\.enabled: false"):
        write_merged(renamed, MergeSettings(), tmp_path / "model")


def test_the_key_follows_everything_that_decides_the_merge(base: BaseModel, tokens: Artifact) -> None:
    candidate = Candidate(label="x", base=base, method={"kind": "lora", "r": 4}, holds="adapter")
    plain = merge_key(candidate, tokens, "w", MergeSettings())
    same = candidate.model_copy(update={"label": "y", "method": {"kind": "lora", "r": 4, "name": "y", "max_steps": 3}})
    assert merge_key(same, tokens.model_copy(update={"cached": True}), "w", MergeSettings()) == plain
    others = [
        merge_key(candidate, tokens, "other", MergeSettings()),
        merge_key(candidate, tokens.model_copy(update={"digest": "other"}), "w", MergeSettings()),
        merge_key(candidate, tokens, "w", MergeSettings(rows=9)),
        merge_key(candidate, tokens, "w", MergeSettings(max_shard_bytes=9)),
        merge_key(candidate.model_copy(update={"method": {"kind": "lora", "r": 8}}), tokens, "w", MergeSettings()),
        merge_key(
            candidate.model_copy(update={"base": base.model_copy(update={"digest": "other"})}),
            tokens,
            "w",
            MergeSettings(),
        ),
    ]
    assert len({plain, *others}) == 7
