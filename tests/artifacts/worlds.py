"""A small artifact, and processes that are killed while they make it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType
from typing import Any

import tasks.artifacts
from tasks.artifacts import Artifact, ArtifactStore
from tasks.foundation.errors import TunelineError

KEY = "k" * 64
FILES = {"a.txt": "first", "deep/b.txt": "second"}
_SOURCES = str(Path(tasks.artifacts.__file__).parent)


def build(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def make(root: Path, fill: Callable[[Path], object] = build) -> Artifact:
    return ArtifactStore(root).make("train", KEY, fill, made_by="run 1")


def contents(folder: Path) -> dict[str, str]:
    """Every file but the manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def fork(action: Callable[[], object]) -> ForkProcess:
    """Start the action in a forked child, which ends with the exit code of what it raises."""

    def run() -> None:
        try:
            action()
        except TunelineError as error:
            os._exit(error.exit_code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)  # none outlives a failed test
    process.start()
    return process


def exit_code(process: ForkProcess) -> int | None:
    process.join(120)
    return process.exitcode


def die_at_line(count: int) -> None:
    """SIGKILL this process before the `count`-th line that it executes in `tasks/artifacts`, as a power cut would."""
    left = count

    def on_line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    sys.settrace(lambda frame, *_: on_line if frame.f_code.co_filename.startswith(_SOURCES) else None)
