"""Tokenise the same rows with `datasets.map`: `… tokenise_map FOLDER BASE PROCESSES BATCHED`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.plain_script import load_rows, tokenize

Rows = dict[str, list[Any]]


def main(folder: str, base: str, processes: str, batched: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    both = load_rows(Path(folder))
    started = time.perf_counter()
    for rows in both:
        rows.map(
            tokenize_batch if batched == "batched" else tokenize,
            fn_kwargs={"tokenizer": tokenizer, "max_length": 512},
            batched=batched == "batched",
            num_proc=int(processes),
            remove_columns=rows.column_names,
        )
    print(json.dumps({"seconds": time.perf_counter() - started, "rows": sum(map(len, both))}))


def tokenize_batch(rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rows:
    """`tokenize` of the plain script for a thousand rows at a time."""
    prompts = tokenizer([prompt + "\n" for prompt in rows["prompt"]])["input_ids"]
    answers = tokenizer(rows["completion"], add_special_tokens=False)["input_ids"]
    found: Rows = {"input_ids": [], "labels": [], "attention_mask": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [*prompt, *answer, tokenizer.eos_token_id][:max_length]
        found["input_ids"].append(ids)
        found["labels"].append([-100] * len(prompt) + ids[len(prompt) :])
        found["attention_mask"].append([1] * len(ids))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
