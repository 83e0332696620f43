"""What children run in the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tasks.foundation.errors import DataError
from tasks.launch.logs import LIMIT_BYTES, earlier


def add(a: int, b: int = 1) -> int:
    return a + b


def pid() -> int:
    return os.getpid()


def environment() -> dict[str, str]:
    return dict(os.environ)


def refuse(what: str) -> None:
    raise DataError(what, where="a.csv:3", fix="Mend it")


def divide(a: int, b: int) -> float:
    return a / b


def fill_the_disk() -> None:
    raise OSError(28, "No space left on device", "weights")


def answer_with_a_function() -> Callable[[], None]:
    return lambda: None


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(600)


def leave(code: int) -> None:
    sys.exit(code)


def talk(word: str) -> None:
    print(word)  # noqa: T201
    sys.stderr.write(f"{word} on stderr\n")
    sys.stdout.flush()
    subprocess.run(["echo", f"{word} from below"], check=True)


def count(total: int, report: Callable[..., None]) -> int:
    for done in range(1, total):
        report(done, total)
    report(total, total, 0.5)
    return total


def say_and_sleep(here: Path) -> None:
    """Says which processes there are (this one and one that it started), and never ends."""
    below = subprocess.Popen(["sleep", "600"])
    staged = here.with_suffix(".staged")
    staged.write_text(json.dumps({"pids": [os.getpid(), below.pid]}))
    staged.replace(here)
    time.sleep(600)


def wait_for(path: Path) -> int:
    while not path.exists():
        time.sleep(0.01)
    return os.getpid()


def storm(times: int) -> int:
    """Print 3 MiB so many times: what is no UTF-8, with and without ends of lines."""
    for turn in range(times):
        os.write(1, b"\xff\xfe\x00" * (1 << 20) if turn % 2 else b"\xc3(\n" * (1 << 20))
    return times


def shout(log: str) -> None:
    """Print until the log has been cut, and break off."""
    while not earlier(Path(log)).exists():
        storm(2)
    while Path(log).stat().st_size > LIMIT_BYTES:  # it is being emptied: what comes in that very moment may get lost
        time.sleep(0.001)
    os.write(2, b"the end \xff\n")
    sys.exit(1)
