"""The environment of processes that work for a flow."""

from __future__ import annotations

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


def rank_environment(environment: dict[str, str], job: GangJob) -> dict[str, str]:
    """The environment of a rank: without secrets, offline, with its own accelerators and a fixed thread count."""
    kept = {name: value for name, value in environment.items() if not _is_secret(name, value)}
    kept |= QUIET | {"PYTHONHASHSEED": "0"}
    if job.devices:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(job.devices)
    threads = job.threads_per_rank or (None if job.devices else 1)
    if threads:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept


def _is_secret(name: str, value: str) -> bool:
    return any(mark in name.upper() for mark in _SECRET_MARKS) or ("://" in value and "@" in value)
