from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.foundation.errors import ModelError
from tasks.models import ModelSettings, resolve_base
from tests.models.tiny import tiny_base, write_tiny_llama

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "models" / "stories260k"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tiny"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        tiny_base(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_facts_are_read_from_config_and_headers(folder: Path) -> None:
    facts = tiny_base(folder).facts
    assert (facts.model_type, facts.hidden_size, facts.num_hidden_layers, facts.vocab_size) == ("llama", 64, 2, 128)
    assert facts.max_position_embeddings == 64
    assert facts.dtype == "float32"
    attention, feed_forward, norms = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 128, 2 * 64
    assert facts.parameters == 128 * 64 + 2 * (attention + feed_forward + norms) + 64
    assert facts.tie_word_embeddings


def test_an_untied_bfloat16_model_counts_its_head_and_names_its_dtype(tmp_path: Path) -> None:
    tied = tiny_base(write_tiny_llama(tmp_path / "tied"))
    untied = tiny_base(write_tiny_llama(tmp_path / "untied", tied=False, dtype="bfloat16"))
    assert untied.facts.parameters == tied.facts.parameters + 128 * 64
    assert not untied.facts.tie_word_embeddings
    assert untied.facts.dtype == "bfloat16"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tiny model is not beside this project")
def test_the_real_tiny_model_resolves() -> None:
    facts = resolve_base(ModelSettings(name_or_path=str(REAL))).facts
    assert facts.parameters == 260_032
    assert facts.tie_word_embeddings


def test_the_digest_follows_the_content_and_not_place_or_time(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copyfile))
    assert tiny_base(copy).digest == tiny_base(folder).digest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_one_changed_byte_changes_the_digest(folder: Path, name: str) -> None:
    before = tiny_base(folder)
    path = folder / name
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1 if name.endswith("safetensors") else 0
    path.write_bytes(bytes(raw) if name.endswith("safetensors") else bytes(raw) + b" ")
    after = tiny_base(folder)
    assert after.digest != before.digest
    assert (after.tokenizer_digest != before.tokenizer_digest) == (name == "tokenizer.json")


def test_a_missing_folder_suggests_the_one_that_is_meant(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"Did you mean .*tiny") as caught:
        tiny_base(folder.with_name("tinny"))
    assert caught.value.exit_code == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer.json", "no tokenizer")],
)
def test_a_missing_part_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    assert message in refusal(folder)


@pytest.mark.parametrize("pickled", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_alone_are_refused_and_never_opened(folder: Path, pickled: str) -> None:
    (folder / "model.safetensors").rename(folder / pickled)
    assert "safetensors only" in refusal(folder)


def test_an_adapter_folder_is_not_a_base(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter, not a base" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling.Canary"}},
        {"_attn_implementation_internal": "kernels-community/flash-attn"},
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": "someone/kernel"},
        {"text_config": {"_attn_implementation_internal": "x"}},
    ],
)
def test_a_config_that_asks_for_code_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    change_json(folder / "config.json", **changes)
    assert "config.json" in refusal(folder)


def test_a_tokenizer_that_asks_for_code_is_refused(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Canary", None]})
    assert "auto_map" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["T5ForConditionalGeneration"]},
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": None},
    ],
)
def test_other_than_causal_language_models_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    change_json(folder / "config.json", **changes)
    assert "not a causal language model" in refusal(folder)


def test_a_quantised_checkpoint_is_refused_with_the_reason(folder: Path) -> None:
    change_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "float weights" in refusal(folder)


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(dict(tokenizer["added_tokens"][0], id=128, content="<new>"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "token 128, the embedding has 128 rows" in refusal(folder)


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_truncated_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "sharded", shard_size="100KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert f"shard {shard.name} is missing" in refusal(folder)


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "sharded", shard_size="100KB")
    change_json(folder / "model.safetensors.index.json", weight_map={"a": "../secret.safetensors"})
    assert "../secret.safetensors" in refusal(folder)


def test_an_embedding_that_contradicts_the_configuration_is_refused(folder: Path) -> None:
    change_json(folder / "config.json", vocab_size=256)
    assert "128 rows" in refusal(folder)


def test_broken_json_is_named_with_its_line(folder: Path) -> None:
    (folder / "config.json").write_text('{\n "a": \n}')
    assert "config.json:3: broken JSON" in refusal(folder)


def test_resolving_imports_no_torch() -> None:
    code = "import sys, tasks.models, tasks.methods; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
