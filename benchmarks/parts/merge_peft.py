"""Merge an adapter as PEFT's documentation shows: `python -m benchmarks.parts.merge_peft BASE ADAPTER OUTPUT BYTES`."""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.parts.measuring import measured


def main(base: str, adapter: str, output: str, shard_bytes: str) -> None:
    with measured():
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        merged.save_pretrained(output, max_shard_size=int(shard_bytes))
        AutoTokenizer.from_pretrained(base).save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
