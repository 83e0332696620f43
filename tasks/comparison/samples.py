"""The same prompts answered by every cell, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.comparison.markdown import markdown_cell
from tasks.comparison.units import NOTHING
from tasks.evaluation.values import Sample


def side_by_side(samples: Mapping[str, Sequence[Sample]]) -> list[dict[str, str]]:
    """One row per prompt: `prompt`, `reference`, then one column per cell label (in the mapping's order).

    Prompts are matched by id; a cell that has no answer to one shows `-`.
    """
    answers = {_heading(label): {sample.id: sample.prediction for sample in cell} for label, cell in samples.items()}
    questions = {sample.id: sample for cell in samples.values() for sample in cell}
    return [
        {
            "prompt": question.prompt,
            "reference": question.references[0] if question.references else "",
            **{label: given.get(name, NOTHING) for label, given in answers.items()},
        }
        for name, question in questions.items()
    ]


def to_markdown(samples: Mapping[str, Sequence[Sample]]) -> str:
    """One small table per prompt with a line per cell: long answers stay readable, which wide tables are not."""
    parts = ["## Samples", ""]
    for row in side_by_side(samples):
        prompt, *answers = row.items()
        parts += [f"**{markdown_cell(prompt[1])}**", "", "| cell | answer |", "| --- | --- |"]
        parts += [f"| {markdown_cell(label)} | {markdown_cell(text)} |" for label, text in answers]
        parts.append("")
    return "\n".join(parts)


def _heading(label: str) -> str:
    """A cell may be called what a fixed column is called."""
    return f"{label} (cell)" if label in {"prompt", "reference"} else label
