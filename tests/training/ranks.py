"""Ranks as forked children of the test: torch and its friends are imported once, so a gang starts in a moment."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from pathlib import Path

from tasks.foundation import faults
from tasks.training import worker
from tasks.training.values import TrainRequest, TrainResult
from tests.ports import free_port


def start_ranks(request: TrainRequest, **environment: str) -> list[multiprocessing.process.BaseProcess]:
    """All ranks of the request's layout, over gloo on this machine; their output goes to `log-<rank>.txt` in `work`."""
    path = request.work / "request.json"
    path.write_text(request.model_dump_json(), encoding="utf-8")
    return fork_ranks(path, request.cell.layout.ranks, **environment)


def fork_ranks(path: Path, ranks: int, **environment: str) -> list[multiprocessing.process.BaseProcess]:
    """All ranks of a request that is written already."""
    port = free_port()
    places = [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for rank in range(ranks)
    ]
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_rank, args=(path, place | environment), daemon=True) for place in places]
    for process in started:
        process.start()
    return started


def run_ranks(request: TrainRequest, **environment: str) -> list[int]:
    """Run all ranks to their ends; their exit codes, -9 for SIGKILL."""
    started = start_ranks(request, **environment)
    for process in started:
        process.join()
    return [int(process.exitcode or 0) for process in started]


def trained_by_ranks(request: TrainRequest, **environment: str) -> TrainResult:
    """Train on all ranks and read the result; the end of a log is in the message where one failed."""
    codes = run_ranks(request, **environment)
    logs = [path.read_text(encoding="utf-8")[-3000:] for path in sorted(request.work.glob("log-*.txt"))]
    assert set(codes) == {0}, f"{codes}\n" + "\n---\n".join(logs)
    return TrainResult.model_validate_json((request.output / "result.json").read_text(encoding="utf-8"))


def _rank(request: Path, environment: dict[str, str]) -> None:
    os.environ |= environment | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    faults.arm()
    with (request.parent / f"log-{environment['RANK']}.txt").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        code = worker.main([str(request)])
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
