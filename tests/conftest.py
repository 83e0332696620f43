"""For all tests."""

from __future__ import annotations

from hypothesis import settings

settings.load_profile("ci")  # the same examples at every run, and none may fail for being slow
