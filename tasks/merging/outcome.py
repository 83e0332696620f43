"""Whether a candidate is merged, and what goes on to the evaluation."""

from __future__ import annotations

from tasks.artifacts import Artifact
from tasks.foundation.digests import digest_tree
from tasks.merging.merge import MODEL_FOLDER, PROOF_FILE
from tasks.merging.settings import MergeSettings
from tasks.merging.values import MergedCell, MergeProof
from tasks.methods import Candidate, parse_method


def unmerged_cell(candidate: Candidate, weights_digest: str, settings: MergeSettings) -> MergedCell | None:
    """The outcome where nothing is to be merged, with the reason; None where the merge has to be made."""
    method = parse_method(candidate.method)
    going_on = {"candidate": candidate, "weights_digest": weights_digest}
    if candidate.holds != "adapter":
        return MergedCell(outcome="not_needed", **going_on)
    if reason := method.unmergeable():
        reason = f"{reason}; base + adapter goes on"
        return MergedCell(outcome="cannot", reason=reason, **going_on)
    if not settings.enabled:
        return MergedCell(outcome="disabled", reason="merge.enabled is false", **going_on)
    return None


def merged_cell(candidate: Candidate, weights_digest: str, artifact: Artifact) -> MergedCell:
    """The outcome of a merge that was made and proven, or proven to lose what was learned."""
    folder = artifact.path / MODEL_FOLDER
    proof = MergeProof.model_validate_json((artifact.path / PROOF_FILE).read_text(encoding="utf-8"))
    if not proof.survives:
        return MergedCell(
            outcome="cannot",
            reason=f"rounding to {proof.dtype} would lose over half of what the adapter does; base + adapter goes on",
            candidate=candidate,
            weights_digest=weights_digest,
            proof=proof,
            artifact=artifact,
        )
    return MergedCell(
        outcome="merged",
        candidate=candidate.model_copy(update={"weights": folder, "holds": "model"}),
        weights_digest=digest_tree(folder, [path.name for path in folder.glob("*.safetensors")]),
        adapter=candidate,
        adapter_digest=weights_digest,
        proof=proof,
        artifact=artifact,
    )
