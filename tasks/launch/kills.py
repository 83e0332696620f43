"""What the kernel kills for lack of memory: its own counters, which outlive the killed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Kills(NamedTuple):
    """Processes that the kernel killed for lack of memory so far; None where the system does not count them."""

    here: int | None
    """In this process' control group, in which the ranks that it starts are too."""
    machine: int | None


def kills_so_far() -> Kills:
    """Read the kernel's counters: `memory.events` (cgroup v2), `memory.oom_control` (v1) and /proc/vmstat."""
    names = ("memory.events", "memory.oom_control")
    counts = [_count(group / name, "oom_kill") for group in control_groups() for name in names]
    known = [count for count in counts if count is not None]
    return Kills(here=sum(known) if known else None, machine=_count(Path("/proc/vmstat"), "oom_kill"))


def killed_since(before: Kills) -> bool:
    """Whether the kernel has counted another one: in this control group or, where it has no counter, anywhere here."""
    now = kills_so_far()
    if before.here is not None and now.here is not None:
        return now.here > before.here
    return before.machine is not None and now.machine is not None and now.machine > before.machine


def control_groups() -> list[Path]:
    """Folders of this process' control groups that count memory; a container may show them at the root only."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup", controllers)
            found += [folder for folder in (root / path.lstrip("/"), root) if (folder / "cgroup.procs").exists()][:1]
    return found


def _count(file: Path, name: str) -> int | None:
    """The number after a name in a file of the kernel's with one pair per line; None where it is not there."""
    try:
        pairs = dict(line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())
        return int(pairs[name])
    except (OSError, KeyError, ValueError):
        return None
