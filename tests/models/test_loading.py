from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from tasks.foundation.errors import ModelError
from tasks.models import Quantization
from tasks.models.loading import load_base, load_tokenizer
from tests.models.tiny import tiny_base, token_batch, write_tiny_llama

NF4 = Quantization(bits=4)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "half", dtype="bfloat16")


def test_auto_is_float32_on_cpu_and_an_explicit_dtype_wins(half: Path) -> None:
    base = tiny_base(half)
    assert load_base(base).dtype == torch.float32
    assert load_base(base.model_copy(update={"dtype": "bfloat16"})).dtype == torch.bfloat16


def test_tied_embeddings_stay_one_weight(half: Path) -> None:
    model = load_base(tiny_base(half))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not model.training


def test_the_attention_setting_reaches_the_model(half: Path) -> None:
    base = tiny_base(half).model_copy(update={"attn_implementation": "eager"})
    assert load_base(base).config._attn_implementation == "eager"


def test_a_weight_that_the_file_lacks_is_never_made_up(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        load_base(tiny_base(folder))


def test_a_weight_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))
    with pytest.raises(
        ModelError, match=r"layers\.0\.mlp\.down_proj.*\[64, 128\] in the weights, \[64, 256\] by config"
    ):
        load_base(tiny_base(folder))


def test_an_architecture_without_the_attention_kernel_says_what_to_set(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    small = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    Gemma2ForCausalLM(Gemma2Config(**small, **heads)).save_pretrained(folder)
    base = tiny_base(folder)
    with pytest.raises(ModelError, match=r"Set model\.attn_implementation: eager"):
        load_base(base.model_copy(update={"attn_implementation": "sdpa"}))
    assert load_base(base.model_copy(update={"attn_implementation": "eager"}))


def test_a_tokenizer_without_padding_pads_with_its_end_token(half: Path) -> None:
    tokenizer = load_tokenizer(tiny_base(half))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert len(tokenizer) == 128


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no end token"):
        load_tokenizer(tiny_base(folder))


def test_the_quantised_base_is_nf4_with_double_quantisation_and_an_explicit_compute_dtype(half: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = load_base(tiny_base(half), quantization=NF4)
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    assert (layer.weight.quant_type, layer.weight.compress_statistics) == ("nf4", True)
    assert layer.compute_dtype == torch.float32
    assert model.lm_head.weight.dtype == torch.float32


def test_an_evaluation_of_the_quantised_base_does_not_change_its_gradients(half: Path) -> None:
    """bitsandbytes repacks weights at the first forward pass in eval mode and then cuts the gradient."""
    pytest.importorskip("bitsandbytes")
    model, ids = load_base(tiny_base(half), quantization=NF4), token_batch()

    def gradient() -> torch.Tensor:
        inputs = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        model.train()
        model(inputs_embeds=inputs).logits.square().sum().backward()
        assert inputs.grad is not None
        return inputs.grad

    before = gradient()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert torch.equal(gradient(), before)
