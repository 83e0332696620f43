"""The configuration files of a test's cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.slurm.cluster import PlainCluster

CGROUPS = Path("/sys/fs/cgroup")


def slurm_conf(cluster: PlainCluster) -> str:
    """Quick in everything that a site takes slowly: requeues, dead nodes, the way from SIGTERM to SIGKILL."""
    folder = cluster.folder
    nodes = [f"NodeName={node} {cluster.node_line(node)} CPUs=4 RealMemory=4000 Gres=gpu:2" for node in cluster.nodes]
    lines = [
        f"ClusterName={cluster.mark}",
        f"SlurmctldHost={cluster.controller_host}",
        f"SlurmctldPort={cluster.ports['controller']}",
        f"SlurmdPort={cluster.ports['slurmd']}",
        *("SlurmUser=root", "SlurmdUser=root", "AuthType=auth/munge", "CredType=cred/munge"),
        f"AuthInfo=socket={folder}/run/munge.sock,cred_expire=5",  # which is also how long a requeued job waits
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool.%n",
        f"SlurmctldPidFile={folder}/run/slurmctld.pid",
        f"SlurmdPidFile={folder}/run/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd-%n.log",
        f"ProctrackType=proctrack/{'cgroup' if can_freeze() else 'linuxproc'}",
        *("TaskPlugin=task/none", "JobAcctGatherType=jobacct_gather/none", "MpiDefault=none", "SwitchType=switch/none"),
        "AccountingStorageType=accounting_storage/none",
        *("SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "SchedulerType=sched/backfill"),
        "SchedulerParameters=bf_interval=2,sched_interval=5,sched_min_interval=0,batch_sched_delay=0",
        *("PriorityType=priority/basic", "ReturnToService=2", "SlurmdParameters=config_overrides"),
        *("SlurmctldTimeout=10", "SlurmdTimeout=10", "KillWait=3", "MinJobAge=600", "UnkillableStepTimeout=10"),
        *("InactiveLimit=0", "Waittime=0", "MessageTimeout=10", "TCPTimeout=2", "JobRequeue=1"),
        *("PropagateResourceLimits=NONE", "GresTypes=gpu", "EnforcePartLimits=ALL"),
        *nodes,
        f"PartitionName=main Nodes={','.join(cluster.nodes)} Default=YES MaxTime=60 State=UP OverSubscribe=NO",
    ]
    return "\n".join([*lines, ""])


def can_freeze() -> bool:
    """Whether slurmd can hold processes together by the freezer of cgroup v1; else by who is whose parent."""
    return (CGROUPS / "freezer").is_dir()


def gres_conf(folder: Path, nodes: tuple[str, ...]) -> str:
    return f"AutoDetect=off\nNodeName={','.join(nodes)} Name=gpu File={folder}/dev/gpu[0-1]\n"


def cgroup_conf() -> str:
    plugin = "cgroup/v1" if can_freeze() else "cgroup/v2"
    lines = (f"CgroupPlugin={plugin}", f"CgroupMountpoint={CGROUPS}", "CgroupAutomount=no")
    return "\n".join([*lines, "ConstrainCores=no", "ConstrainDevices=no", "ConstrainRAMSpace=no", ""])
