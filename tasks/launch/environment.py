"""The environment of processes that work for a flow."""

from __future__ import annotations

import re

from tasks.launch.guard import PARENT
from tasks.launch.ownership import GANG, OWNER
from tasks.launch.protocol import GangJob

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}
"""No network, no threads behind our back, no progress bars in log files."""

_SECRET_MARKS = ("TOKEN", "SECRET", "PASSW", "PASSPHRASE", "CREDENTIAL", "AUTH", "_KEY", "_PWD", "COOKIE", "HEADERS")
"""What the names of variables that hold secrets have in common; to lose one more variable does no harm."""

_GANG_OF_ANOTHER = re.compile(
    r"(MASTER_(ADDR|PORT)|((LOCAL|NODE|GROUP|ROLE)_)?RANK|((LOCAL|GROUP|ROLE)_)?WORLD_SIZE|ROLE_NAME)"
    r"|TORCHELASTIC_.*|PET_.*"
)
"""What tells a rank its place: torchrun sets all of it, and what a user's shell or scheduler holds is of another gang.
Variables that begin with PET_ are torchrun's arguments."""

_OURS = frozenset({OWNER, GANG, PARENT})
"""Tokens of the process that starts a gang; a launcher whose ranks are not to outlive it sets them anew."""


def rank_environment(environment: dict[str, str], job: GangJob) -> dict[str, str]:
    """The environment of a rank: without secrets, offline, with its own accelerators and a fixed thread count."""
    kept = helper_environment(environment) | QUIET | {"PYTHONHASHSEED": "0"}
    if job.devices:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(job.devices)
    threads = job.threads_per_rank or (None if job.devices or job.layout.device == "cuda" else 1)
    if threads:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept


def helper_environment(environment: dict[str, str]) -> dict[str, str]:
    """An environment without secrets, tokens of ours, and the place of this process in a gang."""
    return {name: value for name, value in environment.items() if not _is_withheld(name, value)}


def _is_withheld(name: str, value: str) -> bool:
    return name in _OURS or bool(_GANG_OF_ANOTHER.fullmatch(name)) or _is_secret(name, value)


def _is_secret(name: str, value: str) -> bool:
    return any(mark in name.upper() for mark in _SECRET_MARKS) or ("://" in value and "@" in value)
