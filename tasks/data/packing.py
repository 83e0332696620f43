"""Packing: several rows in one sequence, each with positions from 0 and blind to the others.

Without an attention mask transformers reads the rows' borders from the positions that start again and lets no row see
another. That holds without a key-value cache alone (`config.use_cache = False`, which the Trainer sets): a cache, also
the one through which prefix tuning works, hides the borders. Only families where that was measured are accepted, since
a model that ignores the borders trains on mixed rows in silence.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from tasks.foundation.errors import ConfigError

PACKING_FAMILIES = (
    "gemma",
    "gpt_neox",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
"""Model types for which packed logits were shown to equal unpacked ones (tests/data/test_packing.py)."""
PACKING_ATTENTION = ("eager", "flash_attention_2", "sdpa")


def check_packing(attn_implementation: str, model_type: str) -> None:
    """Refuse packing where rows might see each other.

    Raises:
        ConfigError: the family or the attention implementation was not proven.
    """
    for value, known in ((model_type, PACKING_FAMILIES), (attn_implementation, PACKING_ATTENTION)):
        if value not in known:
            raise ConfigError(
                f"packing is not proven for {value!r}: its rows might see each other",
                where="data.packing",
                allowed=", ".join(known),
                fix="Set data.packing: false",
            )


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of rows by sequence: longest rows first, each into the fullest sequence that still holds it.

    Best fit decreasing; within a sequence and among sequences the rows' own order decides, so equal input gives equal
    output. No row is longer than the capacity.
    """
    sequences: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect_left(rooms, (lengths[row], -1))
        if place == len(rooms):
            room, sequence = capacity, len(sequences)
            sequences.append([])
        else:
            room, sequence = rooms.pop(place)
        sequences[sequence].append(row)
        insort(rooms, (room - lengths[row], sequence))
    return sorted(sorted(sequence) for sequence in sequences)
