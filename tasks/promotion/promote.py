"""Promote, ask, and roll back: what the flow, its tasks and the command line call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.foundation.errors import ConfigError, ConflictError, GateError, IntegrityError
from tasks.foundation.values import Value
from tasks.launch.children import run_in_child
from tasks.promotion.ask import REASON_CHARACTERS, Ask
from tasks.promotion.entries import Author, Draft, Entry, champions
from tasks.promotion.evidence import Evidence
from tasks.promotion.examine import examine, file_evidence, nominate, read_evidence, read_record, wants_approval
from tasks.promotion.log import Log, acting, nonce, stamp
from tasks.promotion.switch import Change, Switch
from tasks.registry.delivered import deliver
from tasks.registry.ledger import Ledger
from tasks.registry.registered import CHAMPION, RegisteredModel, Standing, Version
from tasks.registry.server import RECORD_TAG, Registry
from tasks.registry.trial import try_out
from tasks.tracking.environment import set_mlflow_defaults

SCRATCH = "promotions"
"""Folder of the runs folder: files of versions while they are examined, and the anchors of logs."""


class Judged(Value):
    """A version that was held against its gate, and the evidence, which lies beside the version."""

    version: int
    evidence: Evidence

    @property
    def needs_approval(self) -> bool:
        """Whether a person has to agree before it goes on."""
        return self.evidence.settings.approval == "required"


class Promotion(Value):
    """What came of it."""

    model: str
    version: int
    replaced: int | None
    """The champion before; None where there was none."""
    entry: int
    """Its number in the promotion log; 0 where nothing was to be changed."""

    def __str__(self) -> str:
        if not self.entry:
            return f"{self.model} version {self.version} is the champion already; nothing was changed."
        instead = f", instead of version {self.replaced}" if self.replaced else ""
        return f"{self.model} version {self.version} is the champion now{instead}."


class Desk:
    """One model's registry entry, log and switch."""

    def __init__(self, ask: Ask) -> None:
        set_mlflow_defaults()
        registry = Registry(ask.tracking)
        folder = ask.runs / SCRATCH
        self.model = RegisteredModel(registry, ask.model)
        self.log = Log(Ledger(registry, ask.model), ask.model, folder / "seen")
        self.switch = Switch(self.model, self.log)


def judge(ask: Ask) -> Judged:
    """Examine the version, and lay the evidence beside it, whatever it says.

    Raises:
        ConfigError: no such model, version or alias.
        GateError: the version has no record to judge by.
        IntegrityError: a file was changed, or the version cannot serve.
    """
    desk = Desk(ask)
    nomination = nominate(desk.model, ask.version, ask.alias)
    with scratch(ask.runs) as folder:
        evidence = examine(desk.model, nomination, ask.gate, folder)
        file_evidence(desk.model, nomination.version, evidence, folder / "filed")
    return Judged(version=nomination.version.version, evidence=evidence)


def asks_a_person(ask: Ask) -> bool:
    """Whether the gate of the version wants a person's approval.

    Raises:
        ConfigError: no such model, version or alias.
        GateError: the version has no record, and so no gate of its own.
    """
    desk = Desk(ask)
    nominated = nominate(desk.model, ask.version, ask.alias)
    with scratch(ask.runs) as folder:
        return wants_approval(desk.model, nominated.version, ask.gate, folder)


def promote(ask: Ask, judged: Judged, approver: str) -> Promotion:
    """Make the version the champion that its evidence was judged against.

    Args:
        approver: who approved; empty where nobody had to. Then the version was examined just now; otherwise time has
            passed, and its files are verified and tried out once more.

    Raises:
        ConflictError: the champion is another one by now; nothing was changed.
        GateError: the version was evaluated anew meanwhile, so the evidence is about something else.
        IntegrityError: a file was changed meanwhile.
    """
    desk, evidence = Desk(ask), judged.evidence
    if approver:
        _confirm(desk, ask, judged)
    standing = desk.model.standing()
    if standing.champion == judged.version:
        return Promotion(model=ask.model, version=judged.version, replaced=standing.previous, entry=0)
    draft = Draft(
        action="promote",
        model=ask.model,
        version=judged.version,
        after=Standing(champion=judged.version, previous=evidence.champion),
        author=acting(flow_run=ask.flow_run),
        approved_by=approver,
        reason=ask.reason,
        evidence=evidence.digest,
        package=evidence.package_digest,
        at=stamp(),
        nonce=nonce(),
    )
    begun = desk.switch.change(Change(draft=draft, expected=evidence.champion))
    return Promotion(model=ask.model, version=judged.version, replaced=evidence.champion, entry=begun.number)


def _confirm(desk: Desk, ask: Ask, judged: Judged) -> None:
    """What passed then must still be there, and still be the same."""
    version = desk.model.version(judged.version)
    if version.tags.get(RECORD_TAG) != judged.evidence.record_digest:
        what = f"{ask.model} version {judged.version} was evaluated anew since it was judged"
        raise GateError(what, fix="Promote it again: its gate judges by the new record")
    with scratch(ask.runs) as folder:
        delivered = deliver(desk.model, version, folder / "files")
        record = read_record(desk.model, version, folder)
        trial = run_in_child(try_out, delivered.folder, record.answer)
    if trial.same_answer is False and judged.evidence.settings.answer == "same":
        what = f"{ask.model} version {judged.version} answers {trial.answer[:60]!r} now, not as when it was judged"
        raise GateError(what, fix="Look for changed libraries on this machine, and promote it again")


def roll_back(ask: Ask) -> Promotion:
    """Make an earlier champion the champion again: the one before, or the version that is named.

    It was judged when it became champion, so no gate is asked; but its files are verified.

    Raises:
        ConfigError: there is nothing to go back to, or the version never was champion.
        ConflictError: somebody else changed the champion meanwhile; nothing was changed.
        IntegrityError: the version was deleted, or a file of it was changed: it stays out of production.
    """
    desk = Desk(ask)
    stack = _stack(desk)
    target, below = _target(stack, ask)
    with scratch(ask.runs) as folder:
        deliver(desk.model, _earlier(desk, target), folder / "files")
    draft = Draft(
        action="rollback",
        model=ask.model,
        version=target,
        after=Standing(champion=target, previous=below),
        author=acting(flow_run=ask.flow_run),
        reason=ask.reason,
        at=stamp(),
        nonce=nonce(),
    )
    begun = desk.switch.change(Change(draft=draft, expected=stack[-1]))
    return Promotion(model=ask.model, version=target, replaced=stack[-1], entry=begun.number)


def _earlier(desk: Desk, number: int) -> Version:
    """A version that was champion once."""
    try:
        return desk.model.version(number)
    except ConfigError as error:
        what = f"version {number} of {desk.model.name} was champion, and was deleted since"
        raise IntegrityError(what, where="MODEL", fix="Name an earlier champion with --version") from error


def _stack(desk: Desk) -> list[int]:
    """The champions so far, the present one last, as the aliases tell where the log does not."""
    standing, stack = desk.model.standing(), champions(desk.log.read())
    if standing.champion is None:
        what = f"{desk.model.name} has no champion"
        raise ConfigError(what, where="MODEL", fix="There is nothing to roll back; `tuneline promote` sets one")
    if not stack and standing.previous is not None:
        stack = [standing.previous]
    return stack if stack and stack[-1] == standing.champion else [*stack, standing.champion]


def _target(stack: list[int], ask: Ask) -> tuple[int, int | None]:
    """Where to go, and what a further rollback would go to."""
    earlier = stack[:-1]
    if not earlier:
        what = f"{ask.model} has had no other champion than version {stack[-1]}"
        raise ConfigError(what, where="MODEL", fix="Promote another version instead")
    place = len(earlier) - 1
    if ask.version:
        if ask.version not in earlier:
            known = ", ".join(map(str, dict.fromkeys(reversed(earlier))))
            what = f"version {ask.version} is no earlier champion of {ask.model}"
            raise ConfigError(what, where="--version", allowed=known, fix="Promote it instead: its gate judges it then")
        place = len(earlier) - 1 - earlier[::-1].index(ask.version)
    return earlier[place], earlier[place - 1] if place else None


def request_approval(ask: Ask, judged: Judged) -> Entry:
    """Note that a person is asked, and until when."""
    until = datetime.now(UTC) + timedelta(hours=judged.evidence.settings.approval_hours)
    return Desk(ask).log.append(
        _note(ask, "requested", acting(flow_run=ask.flow_run), ask.reason).model_copy(
            update={
                "version": judged.version,
                "evidence": judged.evidence.digest,
                "package": judged.evidence.package_digest,
                "until": until.isoformat(timespec="seconds"),
            }
        )
    )


def pending_approval(ask: Ask) -> tuple[Entry, Judged] | None:
    """The request that this very flow run has made before it was suspended, with what was judged then.

    Raises:
        IntegrityError: the evidence is gone or was changed.
    """
    if not ask.flow_run:
        return None
    desk = Desk(ask)
    found = [e for e in desk.log.read() if e.action == "requested" and e.author.flow_run == ask.flow_run]
    if not found or found[-1].version is None:
        return None
    requested = found[-1]
    version = desk.model.version(found[-1].version)
    with scratch(ask.runs) as folder:
        evidence = read_evidence(desk.model, version, requested.evidence, folder)
    return requested, Judged(version=version.version, evidence=evidence)


def answer_request(ask: Ask, requested: Entry, name: str, reason: str, *, approve: bool) -> str:
    """Note the answer; returns who approved.

    Raises:
        GateError: it was rejected, or the answer came too late.
        ConflictError: the request was answered before.
    """
    log = Desk(ask).log
    late = datetime.now(UTC) > datetime.fromisoformat(requested.until)
    answered = [entry for entry in log.read() if entry.closes == requested.number]
    if any(entry.action == "rejected" for entry in answered):
        raise ConflictError(f"entry {requested.number} was answered before", fix="Promote again")
    if not answered:
        action = "approved" if approve and not late else "rejected"
        said = reason if not (approve and late) else f"the answer came after {requested.until}: {reason}"
        author = acting(who=name, flow_run=ask.flow_run)
        note = _note(ask, action, author, said[:REASON_CHARACTERS])
        log.append(note.model_copy(update={"version": requested.version, "closes": requested.number}))
    if approve and not late:
        return name
    why = f"the answer came after {requested.until}" if approve else f"rejected by {name}: {reason}"
    raise GateError(
        f"{ask.model} version {requested.version} was not approved: {why}",
        fix=f"Nothing was changed; {ask.model}@{CHAMPION} stands where it stood",
    )


def _note(ask: Ask, action: str, author: Author, reason: str) -> Draft:
    facts = {"action": action, "model": ask.model, "author": author, "reason": reason, "at": stamp(), "nonce": nonce()}
    return Draft.model_validate(facts)


@contextmanager
def scratch(runs: Path) -> Iterator[Path]:
    """A folder on the disk of the runs folder: a version's files may be large."""
    folder = runs / SCRATCH
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".files-") as path:
        yield Path(path)
