"""Section `distributed` with `launcher: slurm`: what it takes, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.launch import Layout, parse_launcher
from tasks.launch.launchers.slurm import SlurmLauncher, limit_seconds
from tests.launch.worlds import job_in


def options(folder: Path, **settings: Any) -> tuple[str, ...]:
    return SlurmLauncher.model_validate(settings)._options(job_in(folder, action="end"))


def test_it_is_found_by_its_name() -> None:
    assert isinstance(parse_launcher({"launcher": "slurm", "nodes": 2}), SlurmLauncher)


@pytest.mark.parametrize(
    ("settings", "device"),
    [
        ({}, "cpu"),
        ({"gres": "gpu:8"}, "cuda"),
        ({"sbatch": {"gpus-per-node": 8}}, "cuda"),
        ({"sbatch": {"tres-per-task": "cpu=8,gres/gpu:8"}}, "cuda"),
        ({"sbatch": {"comment-of-mine": "gpu"}}, "cpu"),
        ({"gres": "gpu:8", "accelerator": "cpu"}, "cpu"),
    ],
)
def test_ranks_compute_on_what_the_job_asks_for_whatever_this_machine_has(
    settings: dict[str, Any], device: str
) -> None:
    asked = SlurmLauncher.model_validate({"nodes": 2, "ranks_per_node": 8} | settings)
    assert asked.layout(None, accelerators=device == "cpu") == Layout(nodes=2, ranks_per_node=8, device=device)


def test_cells_side_by_side_need_no_accelerator_of_this_machine() -> None:
    assert SlurmLauncher(ranks_per_node=8, gres="gpu:8").slot_groups((), 2) == ((),) * 4
    assert SlurmLauncher(parallel_cells=2).slot_groups(("0", "1"), 2) == ((), ())


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400), ("1:30", 90), ("12:00:00", 43200), ("2-0", 172800), ("1-12:30", 131400), ("1-00:00:05", 86405),
        ("UNLIMITED", None),
    ],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(time: str, seconds: int | None) -> None:
    assert limit_seconds(time) == seconds


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"time": "tomorrow"}, "no time limit"),
        ({"time": "3"}, "leaves nothing of time: 3 (180 s)"),
        ({"nodes": 0}, "greater than 0"),
        ({"partition": "a b"}, "pattern"),
        ({"partition": "--wrap=x"}, "pattern"),
        ({"sbatch": {"--mem": "1"}}, "without dashes"),
        ({"sbatch": {"m": "1"}}, "no long option"),
        ({"sbatch": {"output": "x"}}, "--output"),
        ({"sbatch": {"outp": "x"}}, "would change --output"),
        ({"sbatch": {"wrap": "rm -rf /"}}, "would change --wrap"),
        ({"sbatch": {"requeue": False}}, "would change --requeue"),
        ({"sbatch": {"clusters": "other"}}, "would change --clusters"),
        ({"sbatch": {"cluster": "other"}}, "would change --cluster"),
        ({"sbatch": {"constraint": "a\nb"}}, "control character"),
    ],
    ids=str,
)
def test_what_would_not_work_is_refused_before_anything_is_submitted(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SlurmLauncher.model_validate(settings)
    assert said in str(refused.value)


def test_every_setting_reaches_sbatch(tmp_path: Path) -> None:
    seen = options(
        tmp_path,
        nodes=3,
        ranks_per_node=8,
        partition="gpu",
        time="12:00:00",
        gres="gpu:8",
        account="me",
        warning_seconds=60,
        sbatch={"mem": "64G", "exclusive": True, "spread-job": False, "nice": 5},
    )
    wanted = {
        *("--nodes=3", "--partition=gpu", "--time=12:00:00", "--gres=gpu:8", "--account=me", "--signal=B:USR1@60"),
        *("--mem=64G", "--exclusive", "--nice=5", "--cpus-per-task=8", "--requeue", "--ntasks-per-node=1"),
    }
    assert wanted <= set(seen)
    assert not any("spread-job" in option for option in seen)


def test_an_option_without_the_value_that_it_wants_swallows_none_of_ours(tmp_path: Path) -> None:
    seen = options(tmp_path, nodes=2, sbatch={"cpus-per-task": 4, "wckey": True, "exclusive": True})
    assert [seen[seen.index(f"--{name}") + 1] for name in ("exclusive", "wckey")] == ["--parsable", "--parsable"]
    assert "--nodes=2" in seen


def test_what_yaml_reads_as_a_number_is_a_word_of_slurm_all_the_same(tmp_path: Path) -> None:
    assert {"--time=90", "--account=4711"} <= set(options(tmp_path, time=90, account=4711))


def test_cores_of_a_node_are_asked_for_unless_the_user_says_how_many(tmp_path: Path) -> None:
    assert "--cpus-per-task=64" in options(tmp_path, ranks_per_node=8, sbatch={"cpus-per-task": 64})
    for name, value in (("cpus-per-task", 64), ("cpus-per-gpu", 8), ("tres-per-task", "cpu=8")):
        asked = [one for one in options(tmp_path, sbatch={name: value}) if one.startswith(("--cpus", "--tres"))]
        assert asked == [f"--{name}={value}"], "Slurm takes one of them only"
