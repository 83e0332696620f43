"""Seeds, deterministic algorithms and a fixed thread count: set before anything random happens."""

from __future__ import annotations

import os
import random

import numpy as np
import torch


def make_deterministic(seed: int, *, strict: bool, threads: int | None) -> None:
    """Fix every source of chance in this process.

    `strict` turns on torch's deterministic algorithms (and cuBLAS' workspace, which they need). `threads`: torch's
    intra-op threads; CPU sums depend on their number.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    if strict:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
