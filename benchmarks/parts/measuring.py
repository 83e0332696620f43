"""Wall time, and memory beyond what the imports took."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""ru_maxrss counts KiB, on macOS bytes."""


@contextmanager
def measured() -> Iterator[None]:
    """Print what the block took: `seconds`, `grown_mib` (peak resident set over the one before), `peak_mib`."""
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    print(json.dumps({"seconds": seconds, "grown_mib": (peak - before) / 2**20, "peak_mib": peak / 2**20}))
