"""Merge an adapter as tuneline does: `python -m benchmarks.parts.merge_tuneline BASE ADAPTER OUTPUT SHARD_BYTES`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch  # noqa: F401 - imports are not measured
from peft import PeftModel  # noqa: F401

from benchmarks.parts.measuring import measured
from tasks.merging.merge import write_merged
from tasks.merging.settings import MergeSettings
from tasks.methods import Candidate
from tasks.models import ModelSettings, resolve_base


def main(base: str, adapter: str, output: str, shard_bytes: str) -> None:
    method = {"kind": "lora", "r": 16, "lora_alpha": 32}
    resolved = resolve_base(ModelSettings(name_or_path=base))
    candidate = Candidate(label="lora", base=resolved, method=method, weights=Path(adapter), holds="adapter")
    settings = MergeSettings(max_shard_bytes=int(shard_bytes))
    with measured():
        write_merged(candidate, settings, Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
