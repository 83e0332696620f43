"""Bottleneck adapters: small networks inside the blocks, each back at the model's width after a narrow middle."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from tasks.methods._bottleneck.blocks import FAMILIES
from tasks.methods._bottleneck.chosen import ChosenBlocks
from tasks.methods._bottleneck.method import BottleneckMethod
from tasks.methods._values import MethodInfo


class Adapter(ChosenBlocks, BottleneckMethod):
    """Settings of `adapter`. One bottleneck has 2 d m + m + d parameters; houlsby has two per block, the others one."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="bottleneck networks in the blocks: houlsby, pfeiffer or parallel",
        paper="1902.00751 (houlsby), 2005.00247 (pfeiffer), 2110.04366 (parallel)",
        holds="adapter",
        mergeable=True,
        memory="b N + 16 n, b bytes per base weight, n = L (2 d m + m + d), twice that for houlsby",
        quantized_base=True,
        families=FAMILIES,
        traps=(
            "a non-linear bottleneck has no merged form; houlsby with non_linearity: identity and bias: false has one",
            "adapter_fusion takes pfeiffer adapters only",
            "on models with norms behind attention and feed-forward (gemma2, gemma3, glm4) houlsby and parallel come "
            "before those norms",
        ),
    )

    kind: Literal["adapter"] = "adapter"

    def unmergeable(self) -> str:
        if self.non_linearity != "identity":
            return f"s = {self.non_linearity} between two matrices is no matrix, and the base has no place for it"
        if self.variant == "pfeiffer":
            return "a linear pfeiffer adapter multiplies the residual stream itself, for which the base has no weight"
        if self.variant == "parallel":
            return "a linear map beside a non-linear feed-forward network is no part of its weights"
        if self.bias:
            return "its biases would need projections with a bias: bias: false makes a linear houlsby adapter mergeable"
        if self.train_layer_norms:
            return "the layer norms that trained beside it are not merged: train_layer_norms: false"
        return ""

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        """Fold y + scaling U D y into the projection y = W x + b: (I + scaling U D) W, and the same for b."""
        from tasks.methods._bottleneck.fold import fold_shards

        fold_shards(base, adapter, output, max_shard_bytes)
