"""A method of nobody's library, as small as one can be: a trained factor per hidden feature before the output layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.foundation.errors import IntegrityError
from tasks.methods._base import Method
from tasks.methods._values import NOTHING, MethodInfo, Supplies

if TYPE_CHECKING:
    from torch import Tensor, nn


class OutputScaling(Method):
    """y = lm_head(h * factors), factors in R^d."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="d factors", paper="-", holds="adapter", mergeable=False, memory="b N + 16 d"
    )

    kind: Literal["own_method"] = "own_method"
    teachers: tuple[str, ...] = ()

    def sources(self) -> Mapping[str, str]:
        return {**super().sources(), **{f"teachers.{n}": text for n, text in enumerate(self.teachers)}}

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        import torch

        model.requires_grad_(False)
        head = model.get_output_embeddings()
        head.factors = torch.nn.Parameter(torch.ones(model.config.hidden_size))
        head.register_forward_pre_hook(lambda module, inputs: (inputs[0] * module.factors,))
        return model

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save_file

        (folder / "parts").mkdir()
        save_file({"factors": next(iter(tensors.values()))}, folder / "parts" / "factors.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"format": "own"}), encoding="utf-8")

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        from safetensors.torch import load_file

        file = folder / "parts" / "factors.safetensors"
        if not file.is_file():
            raise IntegrityError("factors.safetensors is missing", where=str(folder))
        loaded = self.attach(base)
        loaded.get_output_embeddings().factors.data = load_file(file)["factors"]
        return loaded.requires_grad_(False).eval()
