"""The configuration files of a test's cluster: those of infra/slurm, filled in."""

from __future__ import annotations

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_TEMPLATES = Path(__file__).resolve().parents[2] / "infra" / "slurm"


def can_freeze() -> bool:
    """Whether slurmd can hold processes together by the freezer of cgroup v1; else by who is whose parent."""
    return (CGROUPS / "freezer").is_dir()


def write_configuration(folder: Path, values: dict[str, str]) -> None:
    """Put slurm.conf, gres.conf and cgroup.conf into a folder; `values` are the names between `@` in them."""
    known = {
        "FOLDER": str(folder),
        "PROCTRACK": "cgroup" if can_freeze() else "linuxproc",
        "CGROUP": "v1" if can_freeze() else "v2",
    }
    for template in sorted(_TEMPLATES.glob("*.conf")):
        text = template.read_text(encoding="utf-8")
        for name, value in (known | values).items():
            text = text.replace(f"@{name}@", value)
        (folder / template.name).write_text(text, encoding="utf-8")
