"""The report folder of a comparison: comparison.md, .csv, .json, .png, sizes.png and samples.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.comparison import picture, samples
from tasks.comparison.curves import draw_sizes
from tasks.comparison.render import to_csv, to_markdown
from tasks.comparison.sizes import sized_rows
from tasks.comparison.values import Comparison
from tasks.evaluation.values import Sample

PICTURE = "comparison.png"


def write_report(comparison: Comparison, answers: Mapping[str, Sequence[Sample]], folder: Path) -> None:
    """Replace all files of the folder.

    `answers`: label -> predictions for the same prompts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "comparison.md", to_markdown(comparison))
    write_durably(folder / "comparison.csv", to_csv(comparison))
    write_durably(folder / "comparison.json", comparison.model_dump_json(indent=2))
    picture.draw(comparison, folder / PICTURE)
    if sized_rows(comparison):
        draw_sizes(comparison, folder / "sizes.png")
    if any(answers.values()):
        write_durably(folder / "samples.md", samples.to_markdown(answers))
