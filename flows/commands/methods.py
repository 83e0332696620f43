"""`tuneline methods`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.commands.method_facts import SIZES, MethodFacts, Setting, common_settings, known_methods
from tasks.foundation.errors import ConfigError

_LEGEND = (
    "M merges into the base, Q goes with a quantised base, Z with ZeRO-3, C with gradient checkpointing: + yes, · no, "
    "~ by its settings. `tuneline methods KIND` shows one with its paper, memory, rates, settings and traps."
)
_SIGNS = {"yes": "+", "no": "·", "by settings": "~", "-": " "}
_CHECKPOINTING = {"yes": "works", "no": "refused", "by settings": "by its settings"}


def show_methods(kind: str | None, console: Console) -> None:
    """The table of all methods, or one of them with its settings."""
    known = known_methods()
    if kind is None:
        console.print(method_table(known))
        console.print(Text(f"\n{_LEGEND}", style="dim"))
        return
    if kind not in known:
        close = difflib.get_close_matches(kind, known, n=1)
        hint = f"Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"there is no method {kind!r}", where="methods", allowed=", ".join(known), fix=hint)
    console.print(method_page(known[kind]), highlight=False)


def method_table(known: Mapping[str, MethodFacts]) -> Table:
    """One line per method, or two."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kind", no_wrap=True, style="bold")
    table.add_column("leaves", no_wrap=True)
    table.add_column("MQZC", no_wrap=True)
    table.add_column("what trains")
    for facts in known.values():
        answers = (facts.merges, facts.quantized, facts.zero3, facts.checkpointing)
        marks = "".join(_SIGNS[answer] for answer in answers)
        leaves = "-" if facts.info.holds == "nothing" else facts.info.holds
        table.add_row(facts.kind, leaves, marks if facts.info.holds != "nothing" else "", Text(facts.info.trains))
    return table


def method_page(facts: MethodFacts) -> RenderableType:
    """What it is, facts, default rates, its own settings, the settings of all methods, traps."""
    return Group(
        Text(facts.kind, style="bold"),
        *(Text(paragraph) for paragraph in facts.about.split("\n\n")),
        Text(),
        _pairs(dict(method_lines(facts))),
        Text("\nSettings", style="bold"),
        *_settings(facts.own_settings()),
        Text(f"\nAs in every method: {', '.join(setting.name for setting in common_settings())}.", style="dim"),
        *_traps(facts.info.traps),
    )


def method_lines(facts: MethodFacts) -> Iterator[tuple[str, str]]:
    """(what, answer) for terminal and page."""
    yield "trains", facts.info.trains
    yield "paper", ", ".join(f"https://arxiv.org/abs/{paper}" for paper in facts.papers) or "-"
    yield "leaves", {"nothing": "nothing", "adapter": "an adapter folder", "model": "a whole model"}[facts.info.holds]
    yield "memory", facts.info.memory
    yield "merges", facts.merges_in_words
    if facts.info.holds != "nothing":
        yield "quantised base", facts.quantized_in_words
        yield "engines", facts.engines_in_words
        yield "gradient checkpointing", _CHECKPOINTING[facts.checkpointing]
        yield "default learning rate", _rates(facts)
    yield "families", facts.info.families


def _traps(traps: tuple[str, ...]) -> Iterator[RenderableType]:
    if traps:
        yield Text("\nTraps", style="bold")
        bullets = Table.grid(padding=(0, 1))
        for trap in traps:
            bullets.add_row("  -", Text(trap))
        yield bullets


def _rates(facts: MethodFacts) -> str:
    rates = {size: facts.rate(count) for size, count in SIZES.items()}
    varies = "" if facts.complete else "with the example "
    if len(set(rates.values())) == 1:
        return f"{varies}{next(iter(rates.values()))} at every size"
    return varies + ", ".join(f"{rate} ({size})" for size, rate in rates.items())


def _pairs(pairs: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, Text(value))
    return table


def _settings(settings: Iterator[Setting]) -> Iterator[RenderableType]:
    found = list(settings)
    if not found:
        yield Text("  none of its own")
    for setting in found:
        default = setting.default if setting.default == "required" else f"default {setting.default}"
        head = Text("  ").append(setting.name, style="bold").append(f"  {default}; {setting.allowed}", style="dim")
        yield head
        yield Padding(Text(setting.text), (0, 0, 0, 6))
