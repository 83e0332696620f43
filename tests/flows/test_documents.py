"""What README and docs tell a reader to type exists, with its options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_TYPED = re.compile(r"(?:\$ (?:\S+ )?|`|^ *)(?:\.venv/bin/)?tuneline ((?:[^`\n|#]|\\\||\\\n)+)", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def typed_in(text: str) -> Iterator[str]:
    """What stands behind `tuneline` in blocks and spans of code."""
    for match in _TYPED.finditer(text):
        yield match[1].replace("\\\n", " ").replace("\\|", "|").strip()


def wrong_in(typed: str) -> str:
    """What of a command line does not exist; nothing where all of it does."""
    command: Any = typer.main.get_command(app)
    rest = typed.split()
    while hasattr(command, "commands") and rest and re.fullmatch("[a-z-]+(?:\\|[a-z-]+)*", rest[0]):
        for name in rest[0].split("|"):
            if name not in command.commands:
                return f"no command {name}"
        command = command.commands[rest.pop(0).split("|")[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    missing = [option for option in _OPTION.findall(" ".join(rest)) if option not in known | {"--help"}]
    return f"no {', '.join(missing)}" if missing else ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_exists_with_its_options(path: Path) -> None:
    wrong = {typed: found for typed in typed_in(path.read_text(encoding="utf-8")) if (found := wrong_in(typed))}
    assert wrong == {}


def test_a_command_or_an_option_that_does_not_exist_is_found() -> None:
    assert list(typed_in("a `tuneline runn x` and\n$ .venv/bin/tuneline run faq.yaml --resme\n")) == [
        "runn x",
        "run faq.yaml --resme",
    ]
    assert [wrong_in("runn x"), wrong_in("run faq.yaml --resme"), wrong_in("stack up|down")] == [
        "no command runn",
        "no --resme",
        "",
    ]
