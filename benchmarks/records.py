"""What was measured, kept: `benchmarks/results/NAME.json`, one record per run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.base import Conditions
from benchmarks.figures import Figure
from benchmarks.findings import Finding
from tasks.foundation.digests import library_versions
from tasks.foundation.values import Value

RESULTS = Path(__file__).parent / "results"
_KEPT = 20
_LIBRARIES = ("torch", "transformers", "peft", "datasets", "mlflow", "prefect")


class Machine(Value):
    """Where it ran. `load`: processes that wanted a core in the minute before, so that a busy machine shows."""

    cores: int
    cpu: str
    memory_gib: float
    load: float
    python: str
    versions: dict[str, str]


class Record(Value):
    """One run of one benchmark."""

    when: str
    commit: str
    """Of git; with `+changes` where the working tree differs."""
    machine: Machine
    repeats: int
    quick: bool
    seed: int = 0
    figures: tuple[Figure, ...] = ()
    findings: tuple[Finding, ...] = ()


def machine_here() -> Machine:
    """This machine, now."""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu=_cpu_name(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        load=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        versions=library_versions(*_LIBRARIES),
    )


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit_here(here: Path = RESULTS.parent) -> str:
    """The commit of the sources, or an empty text outside git; the records that benchmarks write are no change."""
    status = ["git", "status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/results"]
    asked = [["git", "rev-parse", "--short=12", "HEAD"], status]
    commit, changes = (subprocess.run(ask, cwd=here, capture_output=True, text=True, check=False) for ask in asked)
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def new_record(measured: tuple[Figure | Finding, ...], conditions: Conditions, machine: Machine) -> Record:
    """`machine`: as it was before the run, whose own load would show otherwise."""
    return Record(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit_here(),
        machine=machine,
        repeats=conditions.repeats,
        quick=conditions.quick,
        seed=conditions.seed,
        figures=tuple(one for one in measured if isinstance(one, Figure)),
        findings=tuple(one for one in measured if isinstance(one, Finding)),
    )


def keep(record: Record, path: Path) -> None:
    """Append to the file, of which the last runs are kept."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    records = [*earlier, _rounded(record)][-_KEPT:]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in records)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _rounded(record: Record) -> dict[str, object]:
    """Six significant digits are enough, and a figure says in the file what it came to."""
    data = record.model_dump(mode="json", exclude_defaults=True)
    for figure, dumped in zip(record.figures, data.get("figures", []), strict=True):
        dumped |= {side: [float(f"{value:.6g}") for value in dumped.get(side, [])] for side in ("ours", "theirs")}
        dumped |= {"ratio": float(f"{figure.ratio:.4g}") if figure.ratio else None, "met": figure.met}
    return data
