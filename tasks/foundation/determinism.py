"""Torch computing the same bits at every repetition, for the length of a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def repeatable(threads: int) -> Iterator[None]:
    """Deterministic algorithms on so many threads, on whose number sums on CPUs depend; torch as it was afterwards.

    Seeds are the caller's.
    """
    import torch

    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses without; it is read once per process
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(before)
