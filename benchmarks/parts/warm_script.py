"""The plain script, imported once: a child is forked for each run, which then costs its work and not its imports.

A request is a line of JSON: {"start": {…}} is answered by {"pid": n}, {"poll": n} by {"code": null or the exit code}.
It has no thread of its own, so that a fork takes nothing along that is half done.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import datasets.config
import mlflow.transformers  # noqa: F401 - a lazy import of the script

from benchmarks import plain_script
from benchmarks.parts import wounds


def main() -> None:
    """Answer requests until the input ends."""
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"pid": start(request["start"])} if "start" in request else {"code": poll(request["poll"])}
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any]) -> int:
    """Fork a run: `folder`, `arguments`, `wounds`, `log`."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os._exit(_run(request))
    return pid


def poll(pid: int) -> int | None:
    """The exit code, negative for a signal; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(request: dict[str, Any]) -> int:
    """In the child: the script as a process of its own would run it, to the end that its interpreter would make."""
    os.setsid()
    folder = Path(request["folder"])
    os.chdir(folder)
    with Path(request["log"]).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    datasets.config.HF_DATASETS_CACHE = folder / "huggingface" / "datasets"
    code = 0
    try:
        for wound in request["wounds"]:
            wounds.apply(wound)
        plain_script.main(request["arguments"])
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter's end does, before the exit functions
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
