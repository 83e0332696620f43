"""`tuneline methods`."""

from __future__ import annotations

import difflib

from rich.console import Console
from rich.table import Table

from tasks.foundation.errors import ConfigError
from tasks.methods import Method, all_methods


def show_methods(kind: str | None, console: Console) -> None:
    """The table of all methods, or one of them with its settings."""
    known = {str(method.model_fields["kind"].default): method for method in all_methods()}
    if kind is None:
        console.print(method_table(known))
        console.print("`tuneline methods KIND` shows a method's settings and traps.", style="dim", markup=False)
        return
    if kind not in known:
        close = difflib.get_close_matches(kind, known, n=1)
        hint = f"Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"there is no method {kind!r}", where="methods", allowed=", ".join(known), fix=hint)
    console.print(method_page(kind, known[kind]))


def method_table(known: dict[str, type[Method]]) -> Table:
    """One line per method."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "what trains", "leaves", "merges", "paper"):
        table.add_column(title, overflow="fold")
    for kind, method in known.items():
        info = method.info
        table.add_row(kind, info.trains, info.holds, "yes" if info.mergeable else "no", info.paper)
    return table


def method_page(kind: str, method: type[Method]) -> Table:
    """Facts, settings with their defaults, traps."""
    info = method.info
    table = Table(box=None, pad_edge=False, show_header=False, title=kind, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    facts = {"trains": info.trains, "paper": info.paper, "memory": info.memory, "families": info.families}
    facts |= {
        "checkpointing": "works" if info.gradient_checkpointing else "refused",
        "4-bit base": "yes" if info.quantized_base else "no",
        "merges": "yes" if info.mergeable else "no",
    }
    for name, value in facts.items():
        table.add_row(name, value)
    for name, field in method.model_fields.items():
        if name != "kind":
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            table.add_row(f"  {name}", f"{default}  {' '.join((field.description or '').split())}")
    for trap in info.traps:
        table.add_row("trap", trap)
    return table
