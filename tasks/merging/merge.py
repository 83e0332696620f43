"""Merge a candidate's adapter into its base in the float dtype, and prove that the result is the same function."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from tasks.artifacts import Artifact
from tasks.foundation.digests import canonical_json, code_digest, digest_value, library_versions
from tasks.foundation.errors import ConfigError
from tasks.foundation.faults import reach
from tasks.merging.settings import MergeSettings
from tasks.merging.values import MergeProof
from tasks.methods import Candidate, method_code, parse_method
from tasks.models import companion_files

log = logging.getLogger(__name__)

MODEL_FOLDER = "model"
PROOF_FILE = "proof.json"
_TRAINING_ONLY = ("name", "learning_rate", "weight_decay", "max_steps", "init_from")
_LIBRARIES = ("torch", "transformers", "peft", "safetensors")


def merge_key(candidate: Candidate, tokens: Artifact, weights_digest: str, settings: MergeSettings) -> str:
    """sha256 of everything that decides the merged model and its proof."""
    base = candidate.base
    return digest_value(
        {
            "weights": weights_digest,
            "base": [base.digest, base.dtype, base.attn_implementation],
            "method": {name: value for name, value in candidate.method.items() if name not in _TRAINING_ONLY},
            "tokens": tokens.digest,
            "settings": settings.model_dump(exclude={"enabled"}),
            "code": code_digest("tasks.merging", "tasks.models", *_method_code(candidate.method)),
            "libraries": library_versions(*_LIBRARIES),
        }
    )


def _method_code(settings: dict[str, Any]) -> tuple[str, ...]:
    shared = (f"tasks.methods.{name}" for name in ("_peft_merge", "_targets", "loading"))
    return (*method_code(settings), *shared)


def merge(candidate: Candidate, tokens: Artifact, settings: MergeSettings, folder: Path) -> MergeProof:
    """Write `model/` (a complete standard model) and `proof.json` into an empty folder. The adapter is only read.

    Where the adapter does not survive the rounding to the base's dtype, only the proof is left, which says so.

    Raises:
        IntegrityError: the merged model's logits differ by more than the tolerance.
        ModelError: the base's files do not hold the adapted layers by name.
    """
    from tasks.merging.proof import prove  # imports torch: only the child process that merges needs it

    output = folder / MODEL_FOLDER
    write_merged(candidate, settings, output)
    reach("merge.prove")
    proof = prove(candidate, tokens, settings, output)
    (folder / PROOF_FILE).write_text(canonical_json(proof) + "\n", encoding="utf-8")
    if not proof.survives:
        shutil.rmtree(output)  # nobody may take it for the tuned model
    log.info(
        "%s merged: logits differ by %.2e (tolerance %.0e)", candidate.label, proof.largest_difference, proof.tolerance
    )
    return proof


def write_merged(candidate: Candidate, settings: MergeSettings, output: Path) -> None:
    """The merged model as a standard folder: shards, configuration, tokenizer."""
    method = parse_method(candidate.method)
    if method.unmergeable() or candidate.weights is None:
        raise ConfigError(f"{candidate.label} cannot be merged", where="merge", fix="Go on with base + adapter")
    output.mkdir(parents=True)
    method.merge_weights(candidate.base.path, candidate.weights, output, settings.max_shard_bytes)
    for name in companion_files(candidate.base.path):
        shutil.copyfile(candidate.base.path / name, output / name)
