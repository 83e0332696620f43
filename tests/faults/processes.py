"""The processes of a pipeline, found from outside: by the token of its owner, whoever their parents are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.launch.ownership import OWNER


def of_run(pipeline: int) -> list[psutil.Process]:
    """Every living process that the pipeline with this pid has started, whatever became of it since."""
    return list(_carrying(f"{pipeline}@"))


def agents_of(pipeline: int) -> list[psutil.Process]:
    return [process for process in of_run(pipeline) if "tasks.launch.agent" in _command(process)]


def ranks_of(pipeline: int) -> dict[int, psutil.Process]:
    """Rank -> process, by what torchrun has put into their environments."""
    return {
        int(process.environ()["RANK"]): process
        for process in of_run(pipeline)
        if "tasks.training.worker" in _command(process) and "RANK" in process.environ()
    }


def children_of(pipeline: int) -> list[psutil.Process]:
    """Those that prepare, merge, evaluate and register."""
    return [process for process in of_run(pipeline) if "multiprocessing.spawn" in " ".join(_command(process))]


def server_of(pipeline: int) -> psutil.Process:
    """Prefect's server of its own."""
    (server,) = [process for process in of_run(pipeline) if "flows.prefect_server" in _command(process)]
    return server


def told_by_ranks(work: Path) -> dict[int, int]:
    """Rank -> pid, by what the ranks themselves say."""
    beats = [json.loads(path.read_text()) for path in work.glob("*/ranks/*.json")]
    return {beat["rank"]: beat["pid"] for beat in beats}


def _carrying(token: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(OWNER, "").startswith(token) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
