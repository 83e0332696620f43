"""Rules that cross sections, and what is derived from an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from configs.experiment import Paths, cell_labels
from configs.loading import load_experiment
from tasks.methods import Method, parse_method
from tests.configs.worlds import SMALL, refused, written


def methods(*settings: dict[str, object]) -> list[Method]:
    return [parse_method(entry) for entry in settings]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            "registry: {metric: bleu}\n",
            'a.yaml:7: registry.metric: "bleu" is not measured. Allowed: loss. Add it to evaluation.metrics.',
        ),
        ("registry: {metric: blue}\n", 'registry.metric: "blue" is not measured. Allowed: loss. Name one that is.'),
        (
            "training: {deterministic: true}\nmodel: {name_or_path: m, attn_implementation: flash_attention_2}\n",
            "training.deterministic: the backward pass of flash_attention_2 is not deterministic",
        ),
        (
            "training: {deterministic: false}\n"
            "model: {name_or_path: m, attn_implementation: flash_attention_2, dtype: float32}\n",
            "model.attn_implementation: flash_attention_2 needs 16-bit numbers",
        ),
        (
            "model: {name_or_path: m, attn_implementation: eager}\ndata: {train: t, packing: true}\n",
            "data.packing: packed rows would see each other under model.attn_implementation: eager. "
            "Set model.attn_implementation: sdpa, or data.packing: false.",
        ),
        (
            "training: {lr_scheduler_type: constant, warmup_ratio: 0.1}\n",
            "training.warmup_ratio: the schedule constant has no warm-up. "
            "Set training.lr_scheduler_type: constant_with_warmup, or leave warmup_ratio out.",
        ),
        (
            "registry: {model: a/b}\n",
            "registry.model: \"a/b\" is no name of a model. Allowed: text without '/' and ':'.",
        ),
        ("registry: {model: ' '}\n", 'registry.model: " " is no name of a model.'),
        ("registry: {model: m, alias: latest}\n", 'registry.alias: "latest" is no alias. Allowed: letters, digits'),
        ("registry: {model: m, alias: v2}\n", 'registry.alias: "v2" is no alias.'),
        (
            "registry: {model: m, alias: champion}\n",
            "registry.alias: champion is moved by `tuneline promote` and `tuneline rollback` alone, past a gate.",
        ),
        (
            "registry: {gate: {thresholds: {loss: {}}}}\n",
            "registry.gate.thresholds.loss: neither min nor max is given, so nothing would be checked",
        ),
        (
            "registry: {gate: {thresholds: {loss: {min: 2, max: 1}}}}\n",
            "registry.gate.thresholds.loss: min 2 is above max 1, so nothing could pass",
        ),
        (
            "registry: {gate: {champion: {metric: bleu}}}\n",
            'registry.gate.champion.metric: "bleu" is not measured. Allowed: loss. Add it to evaluation.metrics.',
        ),
        (
            "registry: {gate: {max_forgetting: 0.1}}\n",
            "registry.gate.max_forgetting: forgetting is measured on a probe, and there is none. Set evaluation.probe.",
        ),
        (
            "evaluation: {size_metrics: [bleu]}\n",
            "evaluation.size_metrics: no method's result can be served in several sizes. "
            "Remove it, or add such a method.",
        ),
        ("evaluation: {size_metrics: [blue]}\n", 'evaluation.size_metrics[0]: no metric "blue".'),
        (
            "methods: [{kind: none, shots: 5}]\nregistry: {model: m}\n",
            "registry.model: no method trains, so nothing can be registered. Add a method that trains",
        ),
        (
            "methods: [{kind: none}]\nregistry: {model: m}\n",
            "registry.model: no method trains, so nothing can be registered. Add a method that trains",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_at_the_key_to_change(
    tmp_path: Path, more: str, problem: str
) -> None:
    kept = [part for part in SMALL.split("\n") if part]
    sections = {line.partition(":")[0] for line in more.splitlines()}
    if "model" in sections:
        kept = kept[1:]
    if "data" in sections:
        kept = [line for line in kept if line != "data:" and "train:" not in line]
    if "methods" in sections:
        kept = kept[: kept.index("methods:")]
    lines = refused(written(tmp_path, "\n".join(kept) + "\n" + more))
    assert len(lines) == 1
    assert problem in lines[0]


@pytest.mark.parametrize(
    "more", ["registry: {metric: rougeL}\n", "registry: {metric: rouge}\n", "registry: {model: m}\n"]
)
def test_the_winner_may_be_named_by_a_metric_or_by_its_headline(tmp_path: Path, more: str) -> None:
    text = SMALL + "evaluation: {metrics: [loss, rouge]}\n" + more
    registry = load_experiment(written(tmp_path, text), (), {}).registry
    assert registry.model_dump(exclude_unset=True) == yaml.safe_load(more)["registry"]


def test_flash_attention_passes_where_nothing_forbids_it(tmp_path: Path) -> None:
    changes = ["model.attn_implementation=flash_attention_2", "training.deterministic=false", "data.packing=true"]
    experiment = load_experiment(written(tmp_path, SMALL), changes, {})
    assert (experiment.model.attn_implementation, experiment.data.packing) == ("flash_attention_2", True)


def test_labels_are_distinct_and_in_the_order_of_the_cells() -> None:
    two = methods({"kind": "lora"}, {"kind": "lora", "r": 4}, {"kind": "lora", "name": "wide"}, {"kind": "lora"})
    assert cell_labels(two, [0]) == ("lora", "lora-2", "wide", "lora-3")
    assert cell_labels(two[:2], [0, 7]) == ("lora seed 0", "lora seed 7", "lora-2 seed 0", "lora-2 seed 7")


def test_a_label_that_the_user_took_is_not_given_to_another_method() -> None:
    labels = cell_labels(methods({"kind": "lora"}, {"kind": "lora"}, {"kind": "ia3", "name": "lora-2"}), [0])
    assert labels == ("lora", "lora-3", "lora-2")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_equal_methods_has_as_many_labels(count: int) -> None:
    assert len(set(cell_labels(methods(*[{"kind": "ia3"}] * count), [0, 1]))) == 2 * count


def test_the_runs_folder_can_be_moved_by_the_environment() -> None:
    assert Paths.from_environment({}).runs == Path("runs")
    assert Paths.from_environment({"TUNELINE_RUNS": "/big/disk"}).runs == Path("/big/disk")
    assert Paths.from_environment({"TUNELINE_RUNS": ""}).runs == Path("runs")
