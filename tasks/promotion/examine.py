"""Examine a version: its files, its record, a trial, and what the gate says to all of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.digests import digest_file
from tasks.foundation.errors import GateError, IntegrityError
from tasks.foundation.values import Value
from tasks.launch.children import run_in_child
from tasks.promotion.ask import GateFile
from tasks.promotion.evidence import Evidence
from tasks.promotion.gate import Champion, Situation, judge
from tasks.registry.delivered import deliver
from tasks.registry.intact import GATES, RECORDS
from tasks.registry.record import Record
from tasks.registry.registered import CHAMPION, RegisteredModel, Version
from tasks.registry.server import PACKAGE_TAG, RECORD_TAG
from tasks.registry.trial import try_out

GATE_TAG = "tuneline.gate"
"""`passed` or `failed`, and the sha256 of the evidence: what the version's page shows."""


class Nomination(Value):
    """The version that is to be promoted, and the champion that it would replace."""

    version: Version
    champion: Champion | None


def nominate(model: RegisteredModel, version: int, alias: str) -> Nomination:
    """The version of a number (0: the one at an alias), and the champion of this moment.

    Raises:
        ConfigError: there is no such model, version or alias.
        IntegrityError: the version is not one of tuneline's.
    """
    nominated = model.version(version) if version else model.at(alias)
    return Nomination(version=nominated, champion=champion_of(model))


def champion_of(model: RegisteredModel) -> Champion | None:
    """What production serves now."""
    number = model.standing().champion
    if number is None:
        return None
    return Champion(version=number, package_digest=model.version(number).tags.get(PACKAGE_TAG, ""))


def examine(model: RegisteredModel, nomination: Nomination, gate: GateFile | None, scratch: Path) -> Evidence:
    """Hold the version against its gate.

    Args:
        gate: instead of the one in the version's own record.
        scratch: an empty folder for the version's files.

    Raises:
        IntegrityError: a file of the version is not what was registered, or it cannot serve.
        GateError: the version has no record to judge by.
    """
    version = nomination.version
    delivered = deliver(model, version, scratch / "files")
    record = read_record(model, version, scratch)
    situation = Situation(
        package_digest=version.tags.get(PACKAGE_TAG, ""),
        weights_digest=delivered.weights_digest,
        champion=nomination.champion,
        trial=run_in_child(try_out, delivered.folder, record.answer),
    )
    return judged(version, record, situation, gate)


def judged(version: Version, record: Record, situation: Situation, gate: GateFile | None) -> Evidence:
    """The evidence on a version whose files were verified and tried out."""
    settings, champion = gate.settings if gate else record.gate, situation.champion
    return Evidence(
        model_name=version.name,
        version=version.version,
        package_digest=situation.package_digest,
        record_digest=version.tags[RECORD_TAG],
        rows_digest=record.scored.rows_digest,
        data_digest=record.data_digest,
        champion=champion.version if champion else None,
        settings=settings,
        settings_from=gate.path if gate else "the record of the version",
        trial=situation.trial,
        checks=judge(record, settings, situation),
    )


def read_record(model: RegisteredModel, version: Version, scratch: Path) -> Record:
    """The record that was made when the version was registered, or registered again.

    Raises:
        GateError: there is none, so there is nothing to judge by.
        IntegrityError: it is gone, or not what the version's tag says.
    """
    digest = version.tags.get(RECORD_TAG)
    if digest is None:
        what = f"{version.name} version {version.version} has no record of its evaluation"
        raise GateError(what, where=version.source, fix="Run its experiment again: nothing is trained twice")
    path = model.fetch(version, f"{RECORDS}/{digest[:12]}.json", scratch / "record")
    if digest_file(path) != digest:
        what = f"the record of {version.name} version {version.version} was changed"
        raise IntegrityError(what, where=version.source, fix="Run its experiment again: it is recorded anew")
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = f"the record of {version.name} version {version.version} is of another tuneline"
        raise GateError(what, where=version.source, fix="Run its experiment again with this one") from error


def wants_approval(model: RegisteredModel, version: Version, gate: GateFile | None, scratch: Path) -> bool:
    """Whether a person has to agree before this version may become the champion."""
    settings = gate.settings if gate else read_record(model, version, scratch).gate
    return settings.approval == "required"


def file_evidence(model: RegisteredModel, version: Version, evidence: Evidence, scratch: Path) -> None:
    """Put the evidence beside the version's files, and what it says onto its page."""
    path = scratch / f"{evidence.digest[:12]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, evidence.text)
    model.attach(version, path, GATES)
    model.tag(version.version, {GATE_TAG: f"{'passed' if evidence.passed else 'failed'} {evidence.digest}"})


def read_evidence(model: RegisteredModel, version: Version, digest: str, scratch: Path) -> Evidence:
    """Evidence that was filed before.

    Raises:
        IntegrityError: it is gone, or it was changed.
    """
    path = model.fetch(version, f"{GATES}/{digest[:12]}.json", scratch / "evidence")
    if digest_file(path) != digest:
        what = f"the evidence for {version.name} version {version.version} was changed"
        raise IntegrityError(what, where=version.source, fix="Promote it again: its gate judges anew")
    return Evidence.model_validate_json(path.read_bytes())


def check_passed(evidence: Evidence) -> None:
    """Go on only where every check passed.

    Raises:
        GateError: naming each check that did not, with what was found and wanted.
    """
    if evidence.passed:
        return
    failed = "; ".join(f"{check.name}: {check.found} (wanted: {check.wanted})" for check in evidence.failures)
    raise GateError(
        f"{evidence.model_name} version {evidence.version} did not pass its gate: {failed}",
        fix=f"Nothing was changed; {evidence.model_name}@{CHAMPION} stands where it stood",
    )
