"""`tuneline stack up`, where the deployments cannot be made."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands.stack import _set_up_orchestration
from tasks.foundation.errors import DependencyError


def test_why_the_deployments_cannot_be_made_is_one_line_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho a warning >&2\necho 'tuneline: http://ann:s3cret@host refuses' >&2\nexit 21\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(DependencyError) as caught:
        _set_up_orchestration({}, Console(file=io.StringIO()))
    said = str(caught.value)
    assert "the deployments cannot be made: http://" in said and "host refuses" in said
    assert "s3cret" not in said and "warning" not in said and "\n" not in said
