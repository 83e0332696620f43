"""What ranks print, line by line while they run, for whoever shows it; their log file remains the whole of it."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

LINE_CHARS = 1000
_LINE_BYTES = 4 * LINE_CHARS + 1
_READ_BYTES = 1 << 20
BURST_LINES = 200
"""So many at once: a traceback of each of some ranks."""
LINES_PER_SECOND = 5
"""And so many in the long run: a day of it is some 100 MB for whoever keeps them."""
_REFILL_LINES = 25
"""Where there was no room, nothing comes before there is room for so many: nobody can read single lines of a log."""
LAST_LINES = 20
"""Of those that were too many, so many of the last: they say how it ended."""
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""Colours, and characters that no database takes as text."""


class LogTail:
    """Reads what is appended to a log from now on. Its memory and the number of lines are bounded, whatever comes.

    A log that cannot be read has no lines; one that was emptied (`tasks.launch.logs.cap`) is read from its start.
    """

    def __init__(self, log: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._offset = _size(log)
        self._begun = b""
        """A line whose end has not come yet."""
        self._room = float(BURST_LINES)
        self._filled = clock()
        self._dry = False
        self._held: deque[bytes] = deque(maxlen=LAST_LINES)
        self._left_out = 0

    def new_lines(self) -> list[str]:
        """Lines that were completed since the last call, as far as there is room for them."""
        now = self._clock()
        self._room = min(BURST_LINES, self._room + (now - self._filled) * LINES_PER_SECOND)
        self._filled = now
        return [line for data in self._appended() for line in self._admitted(self._completed(data))]

    def last_lines(self) -> list[str]:
        """What is left when nothing comes any more: the end of what there was no room for, and an unfinished line."""
        lines = self.new_lines()
        rest = _text(self._begun)
        self._begun = b""
        return [*lines, *self._given_back(), *([rest] if rest else [])]

    def _completed(self, data: bytes) -> list[bytes]:
        *whole, begun = (self._begun + data).split(b"\n")
        self._begun = _cut(begun)
        return list(filter(bytes.strip, whole))

    def _appended(self) -> Iterator[bytes]:
        with suppress(OSError), self._log.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < self._offset:
                self._offset, self._begun = 0, b""
            file.seek(self._offset)
            while self._offset < size and (data := file.read(min(_READ_BYTES, size - self._offset))):
                self._offset += len(data)
                yield data

    def _admitted(self, lines: list[bytes]) -> Iterator[str]:
        """Those for which there is room; of the others, which may be millions, little more than their number."""
        room = int(self._room) if self._room >= (_REFILL_LINES if self._dry else 1) else 0
        taken, left = lines[:room], lines[room:]
        if taken and self._left_out:
            yield _gap(self._left_out)
            self._forget()
        yield from filter(None, map(_text, taken))
        self._room -= len(taken)
        self._dry = bool(left) or (self._dry and not taken)
        self._left_out += len(left)
        self._held.extend(map(_cut, left[-LAST_LINES:]))

    def _given_back(self) -> list[str]:
        gap = self._left_out - len(self._held)
        lines = [*([_gap(gap)] if gap else []), *map(_text, self._held)]
        self._forget()
        return lines

    def _forget(self) -> None:
        self._left_out = 0
        self._held.clear()


def _cut(line: bytes) -> bytes:
    """What a terminal would show of it in the end: a progress bar overwrites itself from each carriage return on."""
    return line.rstrip(b"\r").rpartition(b"\r")[2][:_LINE_BYTES]


def _text(line: bytes) -> str:
    text = _UNPRINTABLE.sub("", _cut(line).decode("utf-8", "replace")).rstrip()
    return f"{text[:LINE_CHARS]} …" if len(text) > LINE_CHARS else text


def _gap(lines: int) -> str:
    return f"… {lines} lines left out"


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0
