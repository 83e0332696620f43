"""`tuneline methods --markdown`: docs/methods-reference.md, made from the code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flows.commands.method_facts import MEMORY_LEGEND, SIZES, MethodFacts, Setting, common_settings, known_methods
from flows.commands.methods import method_lines

_HEAD = """# Methods: reference

Made by `make docs` from the code of `tasks/methods`, and held against it by `make check`: do not edit it. Why something
is refused, where the rates come from and what was measured: [methods.md](methods.md)."""
_OVERVIEW = ("kind", "what trains", "paper", "leaves", "merges", "quantised base", "ZeRO-3", "checkpointing", "memory")


def methods_reference() -> str:
    """The whole page, ending in a newline."""
    known = list(known_methods().values())
    parts = [
        _HEAD,
        _table(_OVERVIEW, (_overview(facts) for facts in known)),
        f"*memory*: {MEMORY_LEGEND}. *by settings*: the section of the method says what holds with its defaults.",
        "## Families",
        _table(("kind", "families"), ((_link(facts), facts.info.families) for facts in known)),
        "## Default learning rates",
        "By the number of the base's parameters; the first column holds below, the last above, and between two columns "
        "the rate is a straight line of logarithms where it changes.",
        _table(("kind", *SIZES), ((_link(facts), *map(facts.rate, SIZES.values())) for facts in known)),
        "## Settings of every method",
        _settings(common_settings()),
        *(part for facts in known for part in _section(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _overview(facts: MethodFacts) -> tuple[str, ...]:
    info = facts.info
    return (
        _link(facts),
        info.trains,
        _papers(facts),
        info.holds,
        facts.merges,
        facts.quantized,
        facts.zero3,
        facts.checkpointing,
        info.memory,
    )


def _section(facts: MethodFacts) -> Iterator[str]:
    yield f"## {facts.kind}"
    yield facts.about
    lines = dict(method_lines(facts)) | {"paper": facts.info.paper if not facts.papers else _papers(facts)}
    yield _table(("", ""), lines.items())
    own = list(facts.own_settings())
    yield _settings(own) if own else "It has no settings of its own."
    if facts.info.traps:
        yield "\n".join(["Traps:", "", *(f"- {_escaped(trap)}" for trap in facts.info.traps)])


def _settings(settings: Iterable[Setting]) -> str:
    rows = ((f"`{each.name}`", f"`{each.default}`", each.allowed, each.text) for each in settings)
    return _table(("setting", "default", "allowed", "what it does"), rows)


def _papers(facts: MethodFacts) -> str:
    text = facts.info.paper
    for paper in facts.papers:
        text = text.replace(paper, f"[{paper}](https://arxiv.org/abs/{paper})")
    return text


def _link(facts: MethodFacts) -> str:
    return f"[{facts.kind}](#{facts.kind})"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(cell: str) -> str:
    """Bars would end the cell, and stars would be emphasis."""
    return cell.replace("|", "\\|").replace("*", "\\*")
