"""A gang that lives but does not get on: found by the progress of its ranks, per phase, never by their life."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from tasks.foundation.errors import HangError
from tasks.foundation.values import Value
from tasks.launch.launchers import StallSettings
from tasks.launch.protocol import Gang
from tasks.training.pulse import Beat, Phase, read_beats, stacks_file

log = logging.getLogger(__name__)

_LONGEST_LOOK_SECONDS = 5.0
"""A look that comes later than this after the one before says that we were asleep, not that the ranks were."""

_STACKS_SECONDS = 5.0
"""How long ranks get to write their stacks; a stopped one never does."""

_LOOK_SECONDS = 0.1

_INNERMOST = re.compile(r'most recent call first\):\n  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>\S+)')


class Stall(Value):
    """What was seen of a gang that hangs."""

    beats: dict[int, Beat | None]
    """The last sign of each rank; None of one that gave none."""
    seconds: dict[int, float]
    """How long each rank has been silent."""
    phase: Phase
    limit: float
    """Seconds that this phase allows."""

    @property
    def working(self) -> list[int]:
        """The ranks that have not ended."""
        return [rank for rank, beat in self.beats.items() if beat is None or beat.phase != "ended"]

    @property
    def behind(self) -> list[int]:
        """The ranks that are least far: the others wait for them."""
        places = {rank: (beat.step, beat.count) if beat else (0, 0) for rank, beat in self.beats.items()}
        asked = self.working or list(places)
        return [rank for rank in asked if places[rank] == min(places[one] for one in asked)]


class HangWatch:
    """Counts, for each rank, the time since its last sign of progress."""

    def __init__(
        self, work: Path, ranks: int, limits: StallSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds that never go backwards; what the wall clocks of the nodes say does not matter."""
        self._work = work
        self._limits = limits
        self._clock = clock
        self._beats: dict[int, Beat | None] = dict.fromkeys(range(ranks))
        self._before_the_queue: dict[int, Beat | None] = {}
        self._seconds = dict.fromkeys(range(ranks), 0.0)
        self._looked = clock()

    def look(self, *, waiting: bool = False) -> Stall | None:
        """Compare the ranks' signs with those of the last look.

        Args:
            waiting: the gang is queued, or nobody knows; the time does not count.

        Returns:
            What is known of the hang, once a rank was silent for longer than its phase allows.
        """
        passed = min(max(self._clock() - self._looked, 0.0), _LONGEST_LOOK_SECONDS)
        self._looked = self._clock()
        now = {beat.rank: beat for beat in read_beats(self._work)}
        before, self._beats = self._beats, {rank: now.get(rank, beat) for rank, beat in self._beats.items()}
        if waiting:
            self._before_the_queue = dict(self._beats)
        phases = {rank: self._phase(rank) for rank in self._beats}
        all_ended = set(phases.values()) == {"ended"}
        for rank, phase in phases.items():
            needed_no_more = phase == "ended" and not all_ended  # the others have limits of their own
            silent = self._beats[rank] == before[rank] and not waiting and not needed_no_more
            self._seconds[rank] = self._seconds[rank] + passed if silent else 0.0
        return self._verdict(phases)

    def _phase(self, rank: int) -> Phase:
        """What the rank does. One that has given no sign since the gang waited in a queue is starting once more."""
        beat = self._beats[rank]
        return "loading" if beat is None or beat == self._before_the_queue.get(rank) else beat.phase

    def _verdict(self, phases: dict[int, Phase]) -> Stall | None:
        for rank, phase in phases.items():
            limit = float(getattr(self._limits, _setting(phase)))
            if self._seconds[rank] > limit:
                return Stall(beats=dict(self._beats), seconds=dict(self._seconds), phase=phase, limit=limit)
        return None


def _setting(phase: Phase) -> str:
    """Which of the limits holds."""
    return "finishing" if phase == "ended" else phase


def hang_error(stall: Stall, gang: Gang, work: Path, newest: int | None) -> HangError:
    """Have all ranks write their stacks into the log, and say which rank the others wait for.

    Args:
        newest: step of the newest checkpoint.
    """
    path = work / "log.txt"
    stacks = _collect_stacks(gang, work, stall.working)
    _append_stacks(path, stall, stacks)
    behind = _culprits(stall, stacks)
    said = ", ".join(_describe(rank, stall, stacks.get(rank, "")) for rank in behind)
    left = f"go on from step {newest}" if newest else "start again: there is no checkpoint yet"
    return HangError(
        f"no progress for {stall.seconds[behind[0]]:.0f} s while {stall.phase} ({stall.limit:g} s are allowed): {said}",
        where=str(path),
        fix=f"The stacks of all ranks are at the end of this log; run it again to {left}. "
        f"Should it only take its time, raise distributed.stall_seconds.{_setting(stall.phase)}",
    )


def _collect_stacks(gang: Gang, work: Path, ranks: list[int]) -> dict[int, str]:
    gang.dump_stacks()
    deadline = time.monotonic() + _STACKS_SECONDS
    seen: dict[int, str] = {}
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        before, seen = seen, {rank: text for rank in ranks if (text := _read(stacks_file(work, rank)))}
        if len(seen) == len(ranks) and seen == before:
            break
    return seen


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _append_stacks(path: Path, stall: Stall, stacks: dict[int, str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for rank, beat in sorted(stall.beats.items()):
            place = (
                f" on {beat.host}, pid {beat.pid}, {beat.phase} step {beat.step}" if beat else ", which gave no sign"
            )
            text = stacks.get(rank) or "no answer within the time: it is stopped, dead or not yet started\n"
            file.write(f"\n--- stacks of rank {rank}{place}\n{text}")


def _culprits(stall: Stall, stacks: dict[int, str]) -> list[int]:
    """Of those that are least far the ones that could not even say where they are."""
    return [rank for rank in stall.behind if rank not in stacks] or stall.behind


def _describe(rank: int, stall: Stall, stack: str) -> str:
    beat = stall.beats[rank]
    if beat is None:
        return f"rank {rank} gave no sign at all"
    blocks = list(_INNERMOST.finditer(stack))  # the thread that trains is the oldest, which comes last
    at = f" in {Path(blocks[-1]['file']).name}:{blocks[-1]['line']} {blocks[-1]['name']}" if blocks else ""
    return f"rank {rank} on {beat.host} after step {beat.step}{at or ', which does not answer'}"
