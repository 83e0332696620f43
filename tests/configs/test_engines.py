"""`distributed.strategy`: names, DeepSpeed files of one's own, and what they may not contradict."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from configs.checks import validate
from configs.engines import deepspeed_of, engine_problems, strategies
from configs.experiment import Experiment
from configs.loading import load_experiment
from tasks.foundation.errors import ConfigError
from tasks.launch import parse_launcher
from tasks.training.settings import TrainingSettings
from tests.configs.models import write_model
from tests.configs.worlds import SMALL, refused, written

STAGE_2 = {"zero_optimization": {"stage": 2}}
LINUX = "linux"


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problem_of(content: object, **training: Any) -> str:
    """The one line about a file of one's own; a text is written as it is."""
    text = content if isinstance(content, str) else json.dumps(content)
    Path("own.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    found = engine_problems(parse_launcher({"strategy": "own.json"}), TrainingSettings(**training), LINUX)
    assert len(found) == 1, [str(problem) for problem in found]
    assert "\n" not in str(found[0])
    return str(found[0])


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ("zero4", 'distributed.strategy: no strategy "zero4". Allowed: ddp, fsdp2, zero0, '),
        ("zero-3", "Did you mean zero3?"),
        ("fsdp", "Did you mean fsdp2?"),
        ("magic", "or a file that ends in .json. A configuration of your own is named by its path."),
    ],
)
def test_an_unknown_strategy_is_refused_with_its_line_before_anything_is_read(
    tmp_path: Path, strategy: str, problem: str
) -> None:
    path = written(tmp_path, f"{SMALL}distributed:\n  strategy: {strategy}\n")
    lines = refused(path)
    assert len(lines) == 1
    assert lines[0].startswith("a.yaml:8: distributed.strategy: no strategy")
    assert problem in lines[0]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_strategies_without_deepspeed_have_no_configuration(strategy: str) -> None:
    assert deepspeed_of(parse_launcher({"strategy": strategy}), TrainingSettings(), LINUX) is None


def test_every_shipped_strategy_is_a_name() -> None:
    assert set(strategies()) >= {"ddp", "fsdp2", "zero0", "zero1", "zero2", "zero3", "zero2-offload", "zero3-offload"}


def test_a_missing_file_suggests_its_neighbour() -> None:
    Path("ds.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        deepspeed_of(parse_launcher({"strategy": "dss.json"}), TrainingSettings(), LINUX)
    assert str(caught.value) == "distributed.strategy: dss.json is not a file. Did you mean ds.json?"


@pytest.mark.parametrize("strategy", ["nowhere/ds.json", ".json", f"{'x' * 5000}.json"])
def test_what_can_be_no_file_is_refused_in_words(strategy: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a file\. Check the path \(relative to the working directory\)"):
        deepspeed_of(parse_launcher({"strategy": strategy}), TrainingSettings(), LINUX)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "own.json:1: not JSON (column 1): "),
        ("{\n  // stage\n}", "own.json:2: a comment; JSON has none. Remove it."),
        ('{"zero_optimization": {"stage": 2}, # two\n}', "own.json:1: a comment; JSON has none. Remove it."),
        ('{\n"a": 1,\n}', "own.json:"),
        ("[]", "own.json: the file holds an empty list. Allowed: a DeepSpeed configuration."),
        ("2", "own.json: the file holds 2."),
        ('{"a": NaN}', "own.json: not a DeepSpeed configuration: NaN is no number that JSON has."),
        ('{"a": 1, "a": 2}', 'own.json: not a DeepSpeed configuration: "a" stands twice.'),
        ("[" * 100_000, "own.json: not a DeepSpeed configuration: nested too deep."),
        ("\udcff", "own.json: is not UTF-8. Save the file as UTF-8."),
        (" " * 300_000, "own.json: is too large for a DeepSpeed configuration. Allowed: 256 KiB."),
        ({"zero_optimization": 2}, "own.json: zero_optimization: 2 does not fit. Allowed: a mapping like"),
        ({"zero_optimization": {"stage": 4}}, "own.json: zero_optimization.stage: 4 does not fit. Allowed: 0, 1, 2"),
        ({"zero_optimization": {"stage": "auto"}}, 'zero_optimization.stage: "auto" does not fit.'),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage: true does not fit."),
    ],
)
def test_a_file_that_is_no_configuration_is_named_with_its_place(content: object, problem: str) -> None:
    assert problem in problem_of(content)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            {"train_batch_size": 64},
            "own.json: train_batch_size: 64 contradicts the experiment, where ranks x sequences x micro-steps are "
            '1 x 8 x 1. Write "auto".',
        ),
        ({"train_micro_batch_size_per_gpu": 4}, "where training.per_device_train_batch_size is 8"),
        ({"gradient_accumulation_steps": True}, "where training.gradient_accumulation_steps is 1"),
        (
            {"gradient_clipping": 0.5},
            "gradient_clipping: 0.5 contradicts the experiment, where training.max_grad_norm is 1",
        ),
        (
            {"bf16": {"enabled": True}},
            "bf16.enabled: true contradicts the experiment, where training.precision is auto",
        ),
        ({"fp16": True}, 'fp16: true does not fit. Write {"enabled": "auto"}.'),
        ({"optimizer": {"type": "AdamW"}}, "own.json: optimizer: is not read from here: training.optim and each"),
        ({"scheduler": {"type": "WarmupLR"}}, "own.json: scheduler: is not read from here: training.lr_scheduler_type"),
        ({"wandb": {"enabled": True}}, "wandb: is not read from here: every run is recorded in MLflow"),
        ({"checkpoint": {"writer": {"type": "FAST"}}}, "checkpoint: is not read from here: checkpoints are sealed as"),
        ({"activation_checkpointing": {}}, "is not read from here: training.gradient_checkpointing decides"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel: is not read from here: every rank takes rows of"),
        ({"gradient_cliping": 0.5}, "own.json: gradient_cliping: is no key that training passes on to DeepSpeed. Did"),
        ({"progressive_layer_drop": {"enabled": True}}, "passes on to DeepSpeed. Remove it."),
        (
            {"zero_optimization": {"stage": 2, "load_from_fp32_weights": False}},
            "own.json: zero_optimization.load_from_fp32_weights: false does not fit: a resumed run has to go on from "
            "the same weights. Write true, or remove it.",
        ),
        ({"zero_force_ds_cpu_optimizer": True}, "true does not fit: training.optim decides. Write false, or remove it"),
    ],
)
def test_a_file_that_contradicts_the_experiment_is_refused_by_name(config: dict[str, Any], problem: str) -> None:
    assert problem in problem_of(STAGE_2 | config)


def test_all_contradictions_are_told_at_once() -> None:
    Path("own.json").write_text(json.dumps({"optimizer": {}, "train_batch_size": 3, "fp16": {"enabled": True}}))
    found = engine_problems(parse_launcher({"strategy": "own.json"}), TrainingSettings(), LINUX)
    assert [problem.where for problem in found] == [
        "own.json: optimizer",
        "own.json: train_batch_size",
        "own.json: fp16.enabled",
    ]


def test_what_repeats_the_experiment_is_left_to_it() -> None:
    own = STAGE_2 | {
        "train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1,
        "bf16": {"enabled": True, "bf16_master_weights_and_grads": False},
        "fp16": {"enabled": False, "loss_scale_window": 100},
        "communication_data_type": "fp32",
    }
    Path("own.json").write_text(json.dumps(own))
    settings = TrainingSettings(per_device_train_batch_size=4, gradient_accumulation_steps=2, precision="bf16")
    config = deepspeed_of(parse_launcher({"strategy": "own.json", "ranks_per_node": 2}), settings, LINUX)
    auto = dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
        "auto",
    )
    assert config == auto | STAGE_2 | {
        "bf16": {"enabled": "auto", "bf16_master_weights_and_grads": False},
        "fp16": {"enabled": "auto", "loss_scale_window": 100},
        "communication_data_type": "fp32",
    }


def test_an_optimiser_that_is_offloaded_is_not_replaced_by_one_of_deepspeeds() -> None:
    own = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    Path("own.json").write_text(json.dumps(own))
    config = deepspeed_of(parse_launcher({"strategy": "own.json"}), TrainingSettings(), LINUX)
    assert config is not None
    assert config["zero_force_ds_cpu_optimizer"] is False


@pytest.mark.parametrize("strategy", ["zero2", "fsdp2"])
def test_other_systems_than_linux_are_told_why_not(strategy: str) -> None:
    found = engine_problems(parse_launcher({"strategy": strategy}), TrainingSettings(), "darwin")
    assert [str(problem) for problem in found] == [
        f"distributed.strategy: {strategy} runs on Linux only, and this is darwin. Allowed: ddp. "
        "Set distributed.strategy: ddp."
    ]
    assert engine_problems(parse_launcher({}), TrainingSettings(), "darwin") == []


def test_without_deepspeed_its_strategies_are_refused_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = engine_problems(parse_launcher({"strategy": "zero3"}), TrainingSettings(), LINUX)
    assert "zero3 needs deepspeed, which is not installed. Install it" in str(found[0])
    assert engine_problems(parse_launcher({"strategy": "fsdp2"}), TrainingSettings(), LINUX) == []


def validated(folder: Path, **sections: object) -> list[str]:
    """What `tuneline validate` says of a small experiment."""
    model = folder / "model"
    if not model.exists():
        write_model(model)
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20, encoding="utf-8")
    experiment = {
        "name": "a",
        "model": {"name_or_path": str(model)},
        "data": {"train": str(folder / "rows.jsonl"), "max_seq_length": 64, "eval_fraction": 0.5},
        "methods": [{"kind": "none"}, {"kind": "lora", "r": 4}],
        **sections,
    }
    found = validate(Experiment.model_validate(experiment), {"TUNELINE_RUNS": str(folder / "runs")})
    return [str(problem) for problem in found]


def test_validate_finds_a_broken_file_and_a_contradiction(tmp_path: Path) -> None:
    Path("own.json").write_text('{"optimizer": {}}')
    assert validated(tmp_path, distributed={"strategy": "own.json"})[0].startswith("own.json: optimizer: ")
    assert validated(tmp_path, distributed={"strategy": "zero2"}) == []


def test_validate_finds_a_method_that_refuses_the_strategy_and_a_precision_that_needs_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = type(Experiment.model_validate(yaml_of(tmp_path)).methods[1])
    monkeypatch.setattr(lora, "info", lora.info.model_copy(update={"refuses": {"zero3": "it says so"}}))
    distributed = {"strategy": "zero3", "accelerator": "cpu"}
    found = validated(tmp_path, distributed=distributed, training={"precision": "fp16"})
    assert [line.partition(":")[0] for line in found] == ["methods[lora]", "training.precision"]
    assert "lora cannot train under zero3: it says so. Allowed: ddp" in found[0]


def yaml_of(folder: Path) -> dict[str, object]:
    return load_experiment(written(folder, SMALL), (), {}).model_dump(mode="json")


def test_the_configuration_reaches_the_layout_of_every_cell(tmp_path: Path) -> None:
    from flows.parts import specs_of
    from tasks.training.lineage import Resume

    changes = ["distributed.strategy=zero3", "distributed.ranks_per_node=2", "distributed.accelerator=cpu"]
    specs = specs_of(load_experiment(written(tmp_path, SMALL), changes, {}), Resume())
    assert [spec.layout.zero_stage for spec in specs if spec.method["kind"] == "lora"] == [3]
