"""The last two columns of the fault table in docs/reliability.md: `python -m benchmarks.reliability` writes them.

Tests are found by the number in their names, the plain script's outcome in the newest records of `control` and
`promotion`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.findings import Finding, counted
from benchmarks.records import RESULTS
from benchmarks.running import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
_ROW = re.compile(r"^\| (\d\d) \|")
_TEST = re.compile(r"def test_row_(\d\d)_")


def rows_of(text: str) -> list[str]:
    """Numbers of the rows of the table, in order."""
    return [match.group(1) for match in map(_ROW.match, text.splitlines()) if match]


def numbered_tests(folder: Path = ROOT / "tests") -> dict[str, dict[str, int]]:
    """Number -> file (without suffix) -> how many tests there carry it."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        for number in _TEST.findall(path.read_text(encoding="utf-8")):
            files = found.setdefault(number, {})
            files[name] = files.get(name, 0) + 1
    return found


def newest_control(results: Path = RESULTS) -> list[Finding]:
    """What became of the plain script and of the plain promotion, in the newest full record of each."""
    return [finding for name in ("control", "promotion") for finding in _newest(results / f"{name}.json")]


def _newest(path: Path) -> list[Finding]:
    records = json.loads(path.read_text(encoding="utf-8"))
    whole = [record for record in records if not record["quick"]]
    return [Finding.model_validate(finding) for finding in whole[-1]["findings"]]


def written(text: str, tests: dict[str, dict[str, int]], control: Sequence[Finding]) -> str:
    """The document with these two columns as they must be."""
    return "".join(_row(line, tests, control) for line in text.splitlines(keepends=True))


def _row(line: str, tests: dict[str, dict[str, int]], control: Sequence[Finding]) -> str:
    match = _ROW.match(line)
    if not match:
        return line
    cells = line.strip().strip("|").split(" | ")[:3]
    number = match.group(1)
    found = [finding for finding in control if finding.name == number]
    named = ", ".join(tests.get(number, {}))
    return (
        "| " + " | ".join([*(cell.strip() for cell in cells), named or "none", counted(found) or "not asked"]) + " |\n"
    )


def main() -> None:
    """Write them."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(written(text, numbered_tests(), newest_control()), encoding="utf-8")


if __name__ == "__main__":
    main()
