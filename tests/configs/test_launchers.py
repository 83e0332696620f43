"""Section `distributed`: which keys it has depends on the launcher that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.loading import load_experiment
from tasks.launch import all_launchers
from tests.configs.worlds import SMALL, refused, written


def with_section(folder: Path, section: str) -> Path:
    return written(folder, f"{SMALL}distributed: {section}\n")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{ranks_per_nod: 2}", "a.yaml:7: distributed.ranks_per_nod: unknown key. Did you mean ranks_per_node?"),
        ("{partition: gpu}", "a.yaml:7: distributed.partition: unknown key. partition belongs to launcher: slurm."),
        ("{nodes: 2}", "distributed.nodes: unknown key. nodes belongs to launcher: pods, slurm."),
        ("{launcher: local, partitoin: gpu}", "partitoin: unknown key. partition belongs to launcher: slurm."),
        ("{launcher: pods, gres: gpu}", "distributed.gres: unknown key. gres belongs to launcher: slurm."),
        ("{launcher: slurm, partitoin: gpu}", "distributed.partitoin: unknown key. Did you mean partition?"),
        ("{launcher: slurm, nnodes: 2}", "distributed.nnodes: unknown key. Use nodes."),
        ("{nnodes: 2}", "distributed.nnodes: unknown key. Use distributed.nodes. nodes belongs to launcher: pods, sl"),
        ("{deepspeed: ds.json}", "distributed.deepspeed: unknown key. Use strategy."),
        ("{nproc_per_node: 2}", "distributed.nproc_per_node: unknown key. Use ranks_per_node."),
        ("{master_port: 29500}", "distributed.master_port: unknown key. Remove it: the launcher tells the ranks"),
        ("{stall_seconds: {trainning: 5}}", "distributed.stall_seconds.trainning: unknown key. Did you mean training?"),
        ("{stall_seconds: {training: 0}}", "distributed.stall_seconds.training: 0 does not fit. Allowed: above 0."),
        ("{zzz: 1}", "distributed.zzz: unknown key. Allowed: launcher, ranks_per_node, strategy, accelerator, para"),
        (
            "{launcher: slrum}",
            'distributed.launcher: no launcher "slrum". Allowed: local, pods, slurm. Did you mean slu',
        ),
        ("{launcher: [slurm]}", "distributed.launcher: no launcher a list of 1. Allowed: local, pods, slurm."),
        ("{launcher: }", "distributed.launcher: no launcher null. Allowed: local, pods, slurm."),
        ("slurm", 'distributed: "slurm" does not fit. Allowed: a mapping.'),
        ("{launcher: slurm, nodes: 0}", "distributed.nodes: 0 does not fit. Allowed: above 0."),
        ("{launcher: pods, nodes: 1}", "distributed.nodes: 1 does not fit. Allowed: above 1."),
        ("{accelerator: gpu}", 'distributed.accelerator: "gpu" does not fit. Allowed: auto, cpu, cuda.'),
        ("{max_restarts: -1}", "distributed.max_restarts: -1 does not fit. Allowed: at least 0."),
    ],
)
def test_a_wrong_section_names_line_and_key_and_what_is_right(tmp_path: Path, section: str, problem: str) -> None:
    lines = refused(with_section(tmp_path, section))
    assert len(lines) == 1
    assert problem in lines[0]
    assert lines[0].startswith("a.yaml:7: ")


def test_several_problems_of_one_launcher_are_all_told(tmp_path: Path) -> None:
    lines = refused(with_section(tmp_path, "{launcher: slurm, nodes: 0, partitoin: gpu, ranks_per_node: x}"))
    assert sorted(line.split()[1] for line in lines) == [
        "distributed.nodes:",
        "distributed.partitoin:",
        "distributed.ranks_per_node:",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("deepspeed: ds.json", "deepspeed: unknown key. Use distributed.strategy."),
        ("fsdp: full_shard", "fsdp: unknown key. Use distributed.strategy."),
        ("num_nodes: 2", "num_nodes: unknown key. Use distributed.nodes. nodes belongs to launcher: pods, slurm."),
        ("gres: gpu:2", "gres: unknown key. Use distributed.gres. gres belongs to launcher: slurm."),
        ("training: {partition: gpu}", "training.partition: unknown key. Use distributed.partition. partition belongs"),
        ("training: {auto_find_batch_size: true}", "auto_find_batch_size: unknown key. Use auto_micro_batch."),
        ("training: {deepspeed: x}", "training.deepspeed: unknown key. Use distributed.strategy."),
    ],
)
def test_a_key_of_the_section_that_stands_elsewhere_is_sent_there(tmp_path: Path, line: str, problem: str) -> None:
    assert problem in refused(written(tmp_path, f"{SMALL}{line}\n"))[0]


def test_overrides_may_change_the_launcher_and_then_its_keys(tmp_path: Path) -> None:
    changes = ["distributed.launcher=slurm", "distributed.nodes=2", "distributed.ranks_per_node=8"]
    for path in (written(tmp_path, SMALL), with_section(tmp_path, "{max_restarts: 3}")):
        distributed = load_experiment(path, changes, {}).distributed
        assert (distributed.launcher, distributed.node_count, distributed.ranks_per_node) == ("slurm", 2, 8)


def test_an_override_for_another_launcher_is_blamed_on_the_override(tmp_path: Path) -> None:
    assert refused(written(tmp_path, SMALL), ["distributed.gres=gpu:8"]) == [
        "override distributed.gres=gpu:8: distributed.gres: unknown key. gres belongs to launcher: slurm."
    ]


@pytest.mark.parametrize("launcher", all_launchers())
def test_an_experiment_under_any_launcher_survives_its_own_record(tmp_path: Path, launcher: str) -> None:
    experiment = load_experiment(with_section(tmp_path, f"{{launcher: {launcher}}}"), (), {})
    again = type(experiment).model_validate(experiment.model_dump(mode="json"))
    assert again == experiment
    assert type(again.distributed) is all_launchers()[launcher]


@pytest.mark.parametrize("launcher", all_launchers())
def test_every_launcher_refuses_an_unknown_key_by_name_and_line(tmp_path: Path, launcher: str) -> None:
    lines = refused(with_section(tmp_path, f"{{launcher: {launcher}, no_such_thing: 1}}"))
    assert lines[0].startswith("a.yaml:7: distributed.no_such_thing: unknown key. Allowed: launcher, ranks_per_node")
