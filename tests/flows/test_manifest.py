"""`tuneline manifest`: an experiment becomes objects that carry it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.loading import load_experiment
from flows.commands.manifest import manifest_text
from tasks.foundation.errors import ConfigError

EXPERIMENT = """\
# 中文: kept, with "quotes" and $(NAMES)
model: {name_or_path: some/folder}
data: {train: rows.jsonl}
methods: [{kind: none}, {kind: lora}]
"""
IMAGE = {"image": "registry.example/tuneline:1"}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "My Run.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


def objects(text: str) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_the_experiment_in_the_pod_is_the_one_that_was_named(experiment: Path, tmp_path: Path) -> None:
    changes = ["training.max_steps=3", "methods.lora.r=4"]
    made = objects(manifest_text(experiment, changes, IMAGE))
    [(name, text)] = made["ConfigMap"]["data"].items()
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod" / name).write_text(text, encoding="utf-8")
    arguments = made["Job"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[1] == f"/experiment/{name}"
    assert load_experiment(tmp_path / "pod" / name, arguments[2:], {}) == load_experiment(experiment, changes, {})


def test_pods_and_accelerators_follow_from_the_experiment(experiment: Path) -> None:
    changes = ["distributed.launcher=pods", "distributed.nodes=3", "distributed.ranks_per_node=4"]
    job = objects(manifest_text(experiment, changes, IMAGE))["Job"]["spec"]
    assert job["completions"] == 3
    assert job["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    on_cpu = objects(manifest_text(experiment, ["distributed.accelerator=cpu"], IMAGE))["Job"]["spec"]
    assert "nvidia.com/gpu" not in on_cpu["template"]["spec"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize(
    ("changes", "options", "problem"),
    [
        ([], {"kind": "cron"}, "--kind: \"cron\" does not fit. Allowed: 'job' or 'jobset'."),
        ([], {"namespace": "a\nb"}, '--namespace: "a\\nb" does not fit. Allowed: text like'),
        ([], {"secrets": ("A",)}, '--secret: "A" does not fit.'),
        (["distributed.launcher=slurm"], {}, "distributed.launcher: slurm does not start ranks in pods."),
        (["tracking.uri=http://me:secret@host"], {}, "an override with a password"),
    ],
)
def test_what_cannot_be_rendered_is_refused_in_one_line(
    experiment: Path, changes: list[str], options: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        manifest_text(experiment, changes, IMAGE | options)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["https://me:canary@mlflow.example", "postgresql://h/db?password=canary"])
def test_a_password_in_the_file_never_becomes_a_config_map(experiment: Path, uri: str) -> None:
    experiment.write_text(f"{EXPERIMENT}tracking: {{uri: '{uri}'}}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        manifest_text(experiment, [], IMAGE)
    assert str(caught.value).startswith(f"{experiment}:5: a password in the file")
    assert "canary" not in str(caught.value) and "--secret" in str(caught.value)


def test_the_text_is_for_people_to_read(experiment: Path) -> None:
    text = manifest_text(experiment, [], IMAGE)
    assert '# 中文: kept, with "quotes" and $(NAMES)' in text, "no escapes"
    assert "&id" not in text
