"""From an experiment to the arguments of its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.loading import load_experiment
from flows.parts import specs_of
from tasks.training.lineage import Resume
from tests.configs.worlds import SMALL, written


@pytest.mark.parametrize(
    ("methods", "labels"),
    [
        ("[{kind: lora}]", ["base", "lora"]),
        ("[{kind: lora}, {kind: none}]", ["none", "lora"]),
        ("[{kind: none, name: 5-shot, shots: 5}, {kind: lora}]", ["base", "5-shot", "lora"]),
        ("[{kind: none, shots: 5, name: few}, {kind: none}, {kind: lora}]", ["few", "none", "lora"]),
        ("[{kind: none, template: '{prompt}: {completion}'}]", ["base", "none"]),
        ("[{kind: none, shots: 1}, {kind: none, shots: 5}]", ["base", "none", "none-2"]),
    ],
)
def test_the_base_without_a_hard_prompt_is_always_among_the_cells(
    tmp_path: Path, methods: str, labels: list[str]
) -> None:
    experiment = load_experiment(written(tmp_path, SMALL), [f"methods={methods}"], {})
    specs = specs_of(experiment, Resume())
    assert [spec.label for spec in specs] == labels


def test_each_hard_prompt_is_a_cell_of_its_own_whatever_the_seeds(tmp_path: Path) -> None:
    methods = "methods=[{kind: none, name: few, shots: 5}, {kind: lora}]"
    experiment = load_experiment(written(tmp_path, SMALL), [methods, "training.seeds=[0, 1]"], {})
    specs = specs_of(experiment, Resume())
    assert [spec.label for spec in specs] == ["base", "few", "lora seed 0", "lora seed 1"]
