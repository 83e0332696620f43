"""The report folder of a comparison: comparison.md, .csv, .json, .png, sizes.png and samples.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tasks.artifacts import write_durably
from tasks.comparison import picture, samples
from tasks.comparison.curves import drawn_sizes
from tasks.comparison.render import to_csv, to_markdown
from tasks.comparison.sizes import sized_rows
from tasks.comparison.values import Comparison
from tasks.evaluation.values import Sample

PICTURE = "comparison.png"


@contextmanager
def written_report(
    comparison: Comparison, answers: Mapping[str, Sequence[Sample]], folder: Path
) -> Iterator[tuple[Path, ...]]:
    """The files of the report, instead of all that lay in the folder; within the block nobody else replaces them.

    Runs of one experiment have one folder, and may end at the same time.

    `answers`: label -> predictions for the same prompts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        contents = _contents(comparison, answers)
        for name, content in contents.items():
            write_durably(folder / name, content)
        for path in folder.iterdir():
            if path.name not in contents and path.is_file():
                path.unlink()
        yield tuple(folder / name for name in contents)


def _contents(comparison: Comparison, answers: Mapping[str, Sequence[Sample]]) -> dict[str, str | bytes]:
    contents: dict[str, str | bytes] = {
        "comparison.md": to_markdown(comparison),
        "comparison.csv": to_csv(comparison),
        "comparison.json": comparison.model_dump_json(indent=2),
        PICTURE: picture.drawn(comparison),
    }
    if sized_rows(comparison):
        contents["sizes.png"] = drawn_sizes(comparison)
    if any(answers.values()):
        contents["samples.md"] = samples.to_markdown(answers)
    return contents
