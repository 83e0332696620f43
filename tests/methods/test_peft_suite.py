"""PEFT's own folder of experiments, run by pointing at it: one cell per folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from configs.checks import validate
from configs.loading import InvalidExperimentError, load_experiment
from tasks.foundation.errors import ConfigError
from tests.configs.worlds import SMALL, written

LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "base_model_name_or_path": None}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "token_dim": 3072, "prefix_projection": False}


def experiments(folder: Path, tree: dict[str, dict[str, Any]]) -> Path:
    """`<name>/<file>` -> its JSON."""
    for name, content in tree.items():
        (folder / "suite" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "suite" / name).write_text(json.dumps(content))
    return folder / "suite"


def suite(folder: Path) -> Path:
    return experiments(
        folder,
        {
            "lora/rank4/adapter_config.json": LORA,
            "prefixtuning/lr_0.005/adapter_config.json": PREFIX,
            "prefixtuning/lr_0.005/training_params.json": {
                "optimizer_kwargs": {"lr": 0.005, "weight_decay": 0.1},
                "init_kv_cache_prefix": "You are a helpful assistant.",
                "max_steps": 7,
                "batch_size": 4,
            },
            "full-finetuning/lr_0.00001/training_params.json": {"optimizer_kwargs": {"lr": 1e-5}},
        },
    )


def with_entry(folder: Path, entry: str) -> Path:
    return written(folder, SMALL + f"  - {{kind: peft_config, {entry}}}\n")


def test_each_folder_is_a_cell_with_its_own_rate_and_no_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = suite(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = load_experiment(with_entry(tmp_path, f"path: {path}"), (), {})
    cells = [method for method in loaded.methods if method.label not in ("none", "full", "lora")]
    assert [cell.label for cell in cells] == ["full-finetuning/lr_0.00001", "lora/rank4", "prefixtuning/lr_0.005"]
    assert [cell.kind for cell in cells] == ["full", "peft_config", "peft_config"]
    assert [cell.learning_rate for cell in cells] == [1e-5, None, 0.005]
    assert [(cell.weight_decay, cell.max_steps) for cell in cells] == [(None, None), (None, None), (0.1, 7)]
    assert cells[2].text == "You are a helpful assistant."  # type: ignore[attr-defined]
    assert str(tmp_path) not in loaded.model_dump_json(include={"methods"})
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "not taken over, the experiment's own sections decide: batch_size"
    ]


def test_what_the_entry_says_wins(tmp_path: Path) -> None:
    path = suite(tmp_path)
    entry = f"path: {path}, name: peer, learning_rate: 0.2, max_steps: 3, leave_out: [full*, lora/*]"
    (cell,) = (m for m in load_experiment(with_entry(tmp_path, entry), (), {}).methods if m.kind == "peft_config")
    assert (cell.label, cell.learning_rate, cell.max_steps) == ("peer prefixtuning/lr_0.005", 0.2, 3)


def test_one_file_or_its_folder_is_one_cell(tmp_path: Path) -> None:
    path = suite(tmp_path) / "lora" / "rank4"
    for place in (path, path / "adapter_config.json"):
        loaded = load_experiment(with_entry(tmp_path, f"path: {place}"), (), {})
        assert [method.label for method in loaded.methods][-1] == "peft_config LORA"


@pytest.mark.parametrize(
    ("tree", "entry", "message"),
    [
        ({"a/adapter_config.json": LORA | {"lora_alfa": 3}}, "", r"lora_alfa.*lora_alpha\?.*leave_out: \[a\]"),
        ({"a/adapter_config.json": LORA, "b/adapter_config.json": {"peft_type": "BONE"}}, "", "leave_out: .b."),
        ({"a/adapter_config.json": LORA}, ", leave_out: [z]", "matches none of the 1 folders"),
        ({"a/adapter_config.json": LORA}, ", leave_out: [a]", "leaves nothing"),
        ({"a/other.json": {}}, "", "no adapter_config.json is there"),
        (
            {"a/adapter_config.json": LORA, "a/training_params.json": {"optimizer_kwargs": {"lr": "high"}}},
            "",
            "'high' is no number",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(
    tree: dict[str, Any], entry: str, message: str, tmp_path: Path
) -> None:
    path = experiments(tmp_path, tree)
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(with_entry(tmp_path, f"path: {path}{entry}"), (), {})
    assert caught.value.exit_code == 10
    assert "\n" not in str(caught.value)


def test_a_wrong_key_behind_a_folder_of_many_is_placed_in_its_own_line(tmp_path: Path) -> None:
    path = suite(tmp_path)
    text = SMALL + f"  - {{kind: peft_config, path: {path}}}\n  - {{kind: lora, r: 0}}\n"
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment(written(tmp_path, text), (), {})
    assert f":{len(text.splitlines())}: methods[" in str(caught.value)


def test_a_configuration_in_the_experiment_itself_is_checked_like_a_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperimentError, match="Did you mean lora_alpha"):
        load_experiment(with_entry(tmp_path, "config: {peft_type: LORA, lora_alfa: 3}"), (), {})
    loaded = load_experiment(with_entry(tmp_path, "config: {peft_type: VERA, r: 8}"), (), {})
    assert loaded.methods[-1].label == "peft_config VERA"
    assert not [problem for problem in validate(loaded, {}, rows=False) if "peft" in str(problem)]


@pytest.mark.parametrize(("beside", "said"), [("", True), (", tokens: ['<s>']", False)], ids=["as they are", "named"])
def test_ids_of_another_tokenizer_are_a_warning_where_no_tokens_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, beside: str, said: bool
) -> None:
    path = experiments(
        tmp_path, {"one/adapter_config.json": {"peft_type": "TRAINABLE_TOKENS", "token_indices": [5, 6]}}
    )
    with caplog.at_level(logging.WARNING):
        load_experiment(with_entry(tmp_path, f"path: {path / 'one'}{beside}"), (), {})
    assert ["token_indices are taken as they are" in record.message for record in caplog.records] == [True] * said
