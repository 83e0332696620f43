"""What ranks run in the tests: it says that it is there, then does what its request asks for. No torch, so quick."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import psutil

from tasks.launch.guard import end_with_parent

_IMPORTS_SECONDS = 0.3
"""A real rank imports for seconds. In the moment in which torchrun has started the ranks and not yet noted them, it
passes no signal on to them, and they end without a word; a test that acts at once would meet that moment."""


def main(request: Path) -> int:
    faulthandler.register(signal.SIGUSR1)
    time.sleep(_IMPORTS_SECONDS)
    asked = json.loads(request.read_text())
    rank = int(os.environ["RANK"])
    if asked.get("guarded", True):
        end_with_parent()
    here = Seen(request.parent, rank)
    pids = [os.getpid()]
    if asked.get("starts_a_process"):
        pids.append(subprocess.Popen(["sleep", "600"]).pid)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if asked["action"] == "ignore SIGTERM" else here.end)
    here.say("here", json.dumps({"pids": pids, "environment": dict(os.environ)}))
    print(f"rank {rank} of {os.environ['WORLD_SIZE']} speaks")  # noqa: T201
    if asked["action"] == "end":
        return 0
    if asked["action"] == "fail" and rank == asked.get("rank", 0):
        here.wait_for("go on")  # were it to fail at once, torchrun might end the other before it was there
        return int(asked["code"])
    if asked["action"] == "die" and rank == asked.get("rank", 0):
        here.wait_for("go on")
        os.kill(os.getpid(), signal.SIGKILL)
    if asked["action"] == "die":
        os._exit(here.follow(asked["rank"]))  # at once: no tidying up
    time.sleep(600)
    return 0


class Seen:
    """Files by which a test sees what became of a rank."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank

    def say(self, word: str, text: str = "") -> None:
        staged = self._folder / f".{word}{self._rank}"
        staged.write_text(text)
        staged.replace(self._folder / f"{word}{self._rank}")

    def wait_for(self, word: str) -> None:
        while not (self._folder / word).exists():
            time.sleep(0.02)

    def follow(self, rank: int) -> int:
        """Fail as soon as another rank is dead, as one does whose connection breaks off."""
        self.wait_for(f"here{rank}")
        other = psutil.Process(json.loads((self._folder / f"here{rank}").read_text())["pids"][0])
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)
        return 1

    def end(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: what follows takes a while, as saving a checkpoint does."""
        self.say("saving")
        self.wait_for("go on")
        self.say("saved")
        sys.exit(143)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
