"""Merge an adapter into its base, and prove the merge. The public face of the package (`merge` needs torch)."""

from tasks.merging.settings import MergeSettings
from tasks.merging.values import MergedCell, MergeProof

__all__ = ["MergeProof", "MergeSettings", "MergedCell"]
