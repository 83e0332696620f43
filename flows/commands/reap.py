"""`tuneline reap`."""

from __future__ import annotations

from rich.console import Console

from tasks.launch.reap import orphans, reap


def reap_orphans(grace_seconds: float, console: Console, *, dry_run: bool) -> None:
    """End what is left of dead runs, and say what that was: a line for each process."""
    found = orphans() if dry_run else reap(grace_seconds)
    for orphan in found:
        console.print(f"{'would end' if dry_run else 'ended'} {orphan}", highlight=False, markup=False, soft_wrap=True)
    if not found:
        console.print("Nothing to reap.")
