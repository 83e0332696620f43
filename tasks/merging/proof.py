"""The proof of a merge: base + adapter and the merged model give the same logits on real rows."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.ipc
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.artifacts import Artifact
from tasks.foundation.errors import DataError, IntegrityError
from tasks.merging.settings import MergeSettings
from tasks.merging.values import MergeProof
from tasks.methods import Candidate, parse_method
from tasks.methods.loading import load_candidate
from tasks.models.loading import compute_dtype, pick_device

EVAL_TOKENS = "eval.arrow"
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}


def prove(candidate: Candidate, tokens: Artifact, settings: MergeSettings, model: Path) -> MergeProof:
    """Compare the logits of base (float) + adapter with those of the merged model as transformers reloads it.

    And with those of the base alone: a merge into 16 bits can lose an adapter whose changes are smaller than the last
    bit of the weights, which a tolerance alone would not see. The two models are loaded one after the other; the first
    one's logits wait on disk.

    Raises:
        IntegrityError: the largest difference, relative to the largest |logit|, is over the tolerance or not a number.
    """
    rows = proof_rows(tokens.path / EVAL_TOKENS, settings.rows)
    device = pick_device()
    merged = candidate.model_copy(update={"weights": model, "holds": "model"})
    with tempfile.TemporaryDirectory(dir=model.parent, prefix=".logits-") as folder:
        tuned = load_candidate(candidate, device=device, float_base=True)
        _write_logits(tuned, rows, Path(folder))
        with parse_method(candidate.method).base_alone(tuned):
            effect = _compare(tuned, rows, Path(folder))
        del tuned
        found = _compare(load_candidate(merged, device=device), rows, Path(folder))
    proof = MergeProof(
        rows=len(rows),
        tokens=sum(map(len, rows)),
        largest_difference=found.largest,
        error=found.root_mean_square,
        adapter_effect=effect.root_mean_square,
        tolerance=settings.tolerance or _default_tolerance(candidate, device),
        same_argmax=found.same_argmax,
        dtype=candidate.base.facts.dtype,
    )
    _refuse_difference(candidate, proof)
    return proof


def proof_rows(path: Path, count: int) -> list[list[int]]:
    """Token ids of the rows with the smallest ids (content hashes): the same rows whatever their order is.

    Raises:
        DataError: there are none.
    """
    with pyarrow.memory_map(str(path)) as file:
        table = pyarrow.ipc.open_stream(file).read_all()
        columns = [table.column(name).to_pylist() for name in ("id", "input_ids")]
    chosen = sorted(zip(*columns, strict=True))[:count]
    if not chosen:
        raise DataError("no evaluation rows to prove the merge on", where=str(path), fix="Raise data.max_eval_rows")
    return [list(ids) for _, ids in chosen]


def _default_tolerance(candidate: Candidate, device: str) -> float:
    """By the coarser of the stored and the computing dtype."""
    stored = getattr(torch, candidate.base.facts.dtype)
    return max(_TOLERANCE[stored], _TOLERANCE[compute_dtype(candidate.base, device)])


def _write_logits(model: nn.Module, rows: Sequence[list[int]], folder: Path) -> None:
    for number, ids in enumerate(rows):
        save_file({"logits": _logits(model, ids)}, folder / f"{number}.safetensors")


class Difference(NamedTuple):
    """Logits against those of base + adapter, relative to the largest |logit| of the latter."""

    largest: float
    root_mean_square: float
    same_argmax: float


def _compare(model: nn.Module, rows: Sequence[list[int]], folder: Path) -> Difference:
    """The model against the logits in the folder."""
    scale, largest, squares, same, count = torch.zeros(()), torch.zeros(()), 0.0, 0, 0
    for number, ids in enumerate(rows):
        reference = load_file(folder / f"{number}.safetensors")["logits"]
        logits = _logits(model, ids)
        difference = logits - reference
        scale = torch.maximum(scale, reference.abs().max())
        largest = torch.maximum(largest, difference.abs().max())
        squares += float(torch.sum(difference.square(), dtype=torch.float64))
        count += difference.numel()
        same += int((logits.argmax(-1) == reference.argmax(-1)).sum())
    mean = math.sqrt(squares / count)
    return Difference(float(largest / scale), mean / float(scale or math.nan), same / sum(map(len, rows)))


def _logits(model: nn.Module, ids: list[int]) -> torch.Tensor:
    """[tokens, vocabulary], float32, on CPU."""
    device = next(model.parameters()).device
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=device)).logits[0]
    return logits.float().cpu().contiguous()


def _refuse_difference(candidate: Candidate, proof: MergeProof) -> None:
    if not proof.largest_difference <= proof.tolerance:
        raise IntegrityError(
            f"the merged {candidate.label} is not base + adapter: logits differ by {proof.largest_difference:.2e} of "
            f"the largest logit, the tolerance is {proof.tolerance:.0e}",
            where="merge",
            fix="The adapter is untouched: go on with base + adapter (merge.enabled: false), or raise merge.tolerance",
        )
