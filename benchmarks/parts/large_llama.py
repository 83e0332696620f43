"""A random Llama and a random LoRA adapter on it: `… large_llama FOLDER DTYPE LAYERS SHARD_BYTES TOKENIZER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

_VOCABULARY = 32_000
_SPREAD = 0.02


def main(folder: str, dtype: str, layers: str, shard_bytes: str, tokenizer: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=int(layers),
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(Path(folder) / "base", max_shard_size=int(shard_bytes))
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(Path(folder) / "base")
    adapter = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=_SPREAD)
    adapter.save_pretrained(Path(folder) / "adapter")
    size = sum(path.stat().st_size for path in (Path(folder) / "base").glob("*.safetensors"))
    print(json.dumps({"mib": size / 2**20}))


if __name__ == "__main__":
    main(*sys.argv[1:])
