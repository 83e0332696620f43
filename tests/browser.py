"""Chromium without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: infra/install-system-packages.sh")
PAGE_MILLISECONDS = 120_000
_OPTIONS = [
    "--no-sandbox",
    *("--disable-gpu", "--disable-software-rasterizer"),  # emulating a GPU takes a core for as long as a page moves
    *("--disable-background-networking", "--disable-component-update"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """For the length of the block."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS, timeout=PAGE_MILLISECONDS)
        yield running
        running.close()
