from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tasks.comparison import Comparison, compare
from tasks.comparison.picture import draw
from tests.comparison.worlds import BLEU, DIGEST, LOSS, five_cells, row

GREEN, BLUE, GREY = (0x1B, 0x7F, 0x4D), (0x48, 0x78, 0xA8), (0x9A, 0x9A, 0x9A)


def colours(path: Path) -> set[tuple[int, ...]]:
    pixels = np.rint(imread(path)[:, :, :3] * 255).astype(int)
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


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw(five_cells(), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_winner_base_and_the_others_have_their_own_colours(tmp_path: Path) -> None:
    draw(five_cells(), tmp_path / "picture.png")
    assert {GREEN, BLUE, GREY} <= colours(tmp_path / "picture.png")


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_picture_grows_with_the_rows(tmp_path: Path, count: int) -> None:
    draw(many(count), tmp_path / "picture.png")
    height, width, _ = imread(tmp_path / "picture.png").shape
    assert width == 1100
    assert height == pytest.approx(110 * (5.1 + 0.3 * max(count, 2)), abs=2)


def test_a_comparison_where_every_cell_failed_is_still_drawn(tmp_path: Path) -> None:
    failed = compare("c", [row("lora", "failed", reason="x"), row("ia3", "failed", reason="y")], [LOSS], "loss", DIGEST)
    draw(failed, tmp_path / "picture.png")
    assert GREEN not in colours(tmp_path / "picture.png")
