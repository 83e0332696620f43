from __future__ import annotations

from tasks.comparison import samples_to_markdown, side_by_side
from tasks.evaluation.values import Sample


def sample(name: str, prediction: str) -> Sample:
    return Sample(id=name, prompt=f"say {name}", references=(f"{name}!", "other"), prediction=prediction)


def test_every_cell_answers_in_its_own_column_matched_by_id() -> None:
    cells = {"none": [sample("a", "?"), sample("b", "??")], "lora": [sample("b", "b!"), sample("a", "a!")]}
    assert side_by_side(cells) == [
        {"prompt": "say a", "reference": "a!", "none": "?", "lora": "a!"},
        {"prompt": "say b", "reference": "b!", "none": "??", "lora": "b!"},
    ]


def test_a_missing_answer_is_visible() -> None:
    rows = side_by_side({"none": [sample("a", "?")], "lora": [sample("b", "b!")]})
    assert [row["lora"] for row in rows] == ["-", "b!"]


def test_a_cell_may_be_called_prompt() -> None:
    assert side_by_side({"prompt": [sample("a", "hi")]}) == [
        {"prompt": "say a", "reference": "a!", "prompt (cell)": "hi"}
    ]


def test_markdown_has_one_table_per_prompt_that_answers_cannot_break() -> None:
    text = samples_to_markdown({"none": [sample("a", "x | y\nz")], "lora": [sample("a", "a!")]})
    assert text.splitlines()[2:9] == [
        "**say a**",
        "",
        "| cell | answer |",
        "| --- | --- |",
        "| reference | a! |",
        r"| none | x \| y z |",
        "| lora | a! |",
    ]
