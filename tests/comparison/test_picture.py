from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from tasks.comparison import Comparison, compare
from tasks.comparison.picture import drawn
from tests.comparison.worlds import BLEU, DIGEST, LOSS, five_cells, row

GREEN, BLUE, GREY = (0x1B, 0x7F, 0x4D), (0x48, 0x78, 0xA8), (0x9A, 0x9A, 0x9A)


def colours(picture: bytes) -> set[tuple[int, ...]]:
    pixels = np.rint(imread(io.BytesIO(picture))[:, :, :3] * 255).astype(int)
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def many(count: int) -> Comparison:
    rows = [
        row(
            "lora",
            label=f"lora r{place}",
            metrics={"loss": 1 + place / 10, "bleu": 3.0},
            trainable_parameters=10**place,
        )
        for place in range(count)
    ]
    return compare("many", rows, [LOSS, BLEU], "loss", DIGEST)


def test_the_same_comparison_gives_the_same_bytes() -> None:
    assert drawn(five_cells()) == drawn(five_cells())


def test_winner_base_and_the_others_have_their_own_colours() -> None:
    assert {GREEN, BLUE, GREY} <= colours(drawn(five_cells()))


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_picture_grows_with_the_rows(count: int) -> None:
    height, width, _ = imread(io.BytesIO(drawn(many(count)))).shape
    assert width == 1100
    assert height == pytest.approx(110 * (5.1 + 0.3 * max(count, 2)), abs=2)


def test_a_comparison_where_every_cell_failed_is_still_drawn() -> None:
    failed = compare("c", [row("lora", "failed", reason="x"), row("ia3", "failed", reason="y")], [LOSS], "loss", DIGEST)
    assert GREEN not in colours(drawn(failed))
