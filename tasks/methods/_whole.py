"""What the methods share that leave a whole model behind."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.methods._base import Method
from tasks.models import companion_files, stored_dtype

if TYPE_CHECKING:
    from torch import Tensor, nn


class WholeModelMethod(Method):
    """Trains weights of the model itself, in float32 whatever the checkpoint's dtype is.

    Pure 16-bit training loses small updates, so the weights that train are float32 masters (4 bytes each) and mixed
    precision is the trainer's. The saved model has the checkpoint's own dtype again, like a merged one.
    """

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a complete standard model: safetensors (tied weights once), configuration, tokenizer."""
        import torch

        source = Path(model.name_or_path)
        stored = getattr(torch, stored_dtype(source))
        state = {
            name: tensor.detach().to("cpu", stored if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in tensors.items()
        }
        model.save_pretrained(folder, state_dict=state)
        for name in companion_files(source):
            shutil.copyfile(source / name, folder / name)

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """The saved model in the base's place, with its dtype and device."""
        loaded: nn.Module = type(base).from_pretrained(
            folder, dtype=base.dtype, local_files_only=True, use_safetensors=True
        )
        return loaded.to(base.device).requires_grad_(False).eval()
