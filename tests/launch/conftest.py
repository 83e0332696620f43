from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _project_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for processes that start elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
