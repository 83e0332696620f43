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
    error: float
    """Root mean square of the differences, the merged model against base + adapter."""
    adapter_effect: float
    """The same of the base alone against base + adapter: what the adapter does on these rows."""
    same_argmax: float
    """Share of positions with the same most likely token."""
    dtype: str

    @property
    def survives(self) -> bool:
        """False where rounding swallowed more than half of what the adapter does."""
        return self.error <= self.adapter_effect / 2


class MergedCell(Value):
    """Outcome of the merge step: the candidate that goes on to evaluation."""

    outcome: Literal["merged", "not_needed", "cannot", "disabled"]
    """`not_needed`: the method left a whole model or nothing; `cannot`: base + adapter goes on, since the method has no
    merged form, or since the base's dtype is too coarse for what this adapter does."""
    reason: str = ""
    candidate: Candidate
    weights_digest: str = ""
    """Digest of the weights that go on: of the merged model, or of what training left."""
    adapter: Candidate | None = None
    """What was merged; None where nothing was."""
    adapter_digest: str = ""
    proof: MergeProof | None = None
    artifact: Artifact | None = None
