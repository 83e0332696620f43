from __future__ import annotations

import pytest
import torch

from tasks.foundation.determinism import repeatable


def test_a_block_computes_strictly_on_its_threads_and_leaves_torch_as_it_was_even_by_an_error() -> None:
    torch.set_num_threads(1)
    with pytest.raises(RuntimeError, match="in the middle"), repeatable(2):
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, True)
        raise RuntimeError("in the middle")
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (1, False)
