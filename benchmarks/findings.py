"""What a trial returns where a number says too little: one line per case, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rich.table import Table

from tasks.foundation.values import Value

Verdict = Literal["right", "loud", "silent", "leftovers", "hangs", "not applicable", "holds", "does not hold"]
"""
- right: ended as if nothing had happened, or refused before it could do harm, and cleaned up;
- loud: failed and said so, though a person must find out what to do;
- silent: a wrong or damaged result, or a lost promise, with exit code 0 and no word;
- leftovers: the right result, but processes, half folders or records that say RUNNING stay behind;
- hangs: nothing happened until we stopped waiting;
- holds, does not hold: what was claimed of numbers;
- not applicable: it has no such thing, or it cannot be done here; `saw` says which.
"""

_STYLES = {"right": "green", "holds": "green", "loud": "yellow", "not applicable": "dim"}


class Finding(Value):
    """One case."""

    name: str
    """Number of the row in the fault list, or of the pipeline."""
    done: str
    """What we did to it."""
    saw: str
    """What happened."""
    verdict: Verdict
    broken: bool = False
    """A promise of ours does not hold: the command ends with 1."""


def findings_table(title: str, findings: Sequence[Finding]) -> Table:
    """One line per finding."""
    table = Table(title=title, title_justify="left")
    for name in ("", "what was done", "what happened", "verdict"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        style = "red" if finding.broken else _STYLES.get(finding.verdict, "red")
        table.add_row(finding.name, finding.done, finding.saw, f"[{style}]{finding.verdict}[/]")
    return table


def counted(findings: Sequence[Finding]) -> str:
    """`12 silent, 5 loud, …`, the most frequent first."""
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(one.verdict for one in findings).most_common())
