"""`tuneline doctor`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tasks.foundation.errors import ResourceError
from tasks.health import checks


def examine(console: Console) -> int:
    """A line per check; exit code 0, or 20 when something must be mended."""
    found = checks()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        mark = "[green]ok[/]" if check.ok else "[red]!![/]"
        table.add_row(mark, check.name, check.detail if check.ok else f"{check.detail}. {check.fix}")
    console.print(table)
    return 0 if all(check.ok for check in found) else ResourceError.exit_code
