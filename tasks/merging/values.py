"""The merged model and the proof that it is the same function."""

from __future__ import annotations

from typing import Literal

from tasks.artifacts.values import Artifact
from tasks.foundation.values import Value
from tasks.methods import Candidate


class MergeProof(Value):
    """proof.json. Differences are of logits, relative to the largest absolute logit."""

    rows: int
    tokens: int
    largest_difference: float
    tolerance: float
    same_argmax: float
    """Share of positions with the same most likely token."""
    dtype: str


class MergedCell(Value):
    """Outcome of the merge step: the candidate that goes on to evaluation."""

    outcome: Literal["merged", "not_needed", "cannot", "disabled"]
    """`not_needed`: the method left a whole model or nothing; `cannot`: base + adapter goes on."""
    reason: str = ""
    candidate: Candidate
    weights_digest: str = ""
    """Digest of the weights that go on: of the merged model, or of what training left."""
    proof: MergeProof | None = None
    artifact: Artifact | None = None
