"""A base's architecture without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM

if TYPE_CHECKING:
    from torch import nn


def skeleton(folder: Path) -> nn.Module:
    """All modules with the names, sizes and ties that they will have, on torch's meta device: no memory, no values."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.name_or_path = str(folder)
    return model
