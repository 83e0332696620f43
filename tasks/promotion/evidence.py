"""The evidence of a gate: every check with what was found and what was wanted, and the digests that it rests on."""

from __future__ import annotations

from pydantic import ConfigDict

from tasks.foundation.digests import canonical_json, digest_text
from tasks.foundation.values import Value
from tasks.registry.settings import GateSettings
from tasks.registry.trial import Trial


class Check(Value):
    """One condition."""

    name: str
    passed: bool
    found: str
    """What there is, with its unit."""
    wanted: str
    """What would pass."""


class Evidence(Value):
    """evidence.json. Digests are sha256."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    layout: int = 1
    model_name: str
    version: int
    package_digest: str
    record_digest: str
    rows_digest: str
    data_digest: str
    champion: int | None
    """The version that it was compared with, and that it may replace; None where there was none."""
    settings: GateSettings
    """The gate that judged."""
    settings_from: str
    """Where that gate was written: the record of the version, or a file."""
    trial: Trial
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Every check passed, and there was one at all."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def text(self) -> str:
        """The file: canonical JSON and a line's end."""
        return canonical_json(self) + "\n"

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return digest_text(self.text)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


def to_markdown(evidence: Evidence) -> str:
    """The evidence as a person reads it."""
    verdict = "passed" if evidence.passed else "**did not pass**"
    against = f"version {evidence.champion}" if evidence.champion else "no champion yet"
    lines = [
        f"# {evidence.model_name} version {evidence.version} {verdict} its gate",
        "",
        "| | check | found | wanted |",
        "| --- | --- | --- | --- |",
        *(f"| {_mark(c)} | {c.name} | {_cell(c.found)} | {_cell(c.wanted)} |" for c in evidence.checks),
        "",
        f"Compared with {against}. The gate: {evidence.settings_from}. "
        f"Loaded in {evidence.trial.load_seconds:.1f} s, answers the input example in "
        f"{evidence.trial.answer_seconds:.3g} s with {evidence.trial.peak_memory_bytes / 2**20:.0f} MiB "
        f"on {evidence.trial.device}.",
        "",
        f"Package `{evidence.package_digest}`, record `{evidence.record_digest}`, evaluation rows "
        f"`{evidence.rows_digest}`, data `{evidence.data_digest}`.",
    ]
    return "\n".join(lines) + "\n"


def to_list(evidence: Evidence) -> str:
    """The same in the width of a form."""
    instead = f"instead of version {evidence.champion}" if evidence.champion else "as its first champion"
    asked = f"May **{evidence.model_name} version {evidence.version}** go into production, {instead}?"
    checks = [f"- {_mark(c)} {c.name}: {_cell(c.found)} (wanted: {_cell(c.wanted)})" for c in evidence.checks]
    return "\n".join([asked, "", *checks]) + "\n"


def _mark(check: Check) -> str:
    return "✓" if check.passed else "✗"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
