"""The extension as a child process runs it: the parent names this function without importing torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.vocabulary.values import ExtensionJob, VocabularyReport

if TYPE_CHECKING:
    from tasks.vocabulary.rows import Report


def extend_in_child(job: ExtensionJob, folder: Path, report: Report) -> VocabularyReport:
    """See `tasks.vocabulary.extend.extend`."""
    from tasks.vocabulary.extend import extend

    return extend(job, folder, report)
