"""Whose work folder is it, and may this cell go on from what lies there?

A work folder is named by the fingerprint of its cell, so a changed setting takes another folder and begins anew. Its
`cell.json` says what was tried there. With `--resume` a cell goes on from a checkpoint or is refused with the
difference; with `--allow world_size` it also goes on from a gang of another size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from tasks.artifacts import read, write_durably
from tasks.foundation.digests import canonical_json
from tasks.foundation.errors import ConfigError
from tasks.foundation.values import Value
from tasks.training.checkpoints import Checkpoints, identity_difference
from tasks.training.identity import Beside, cell_facts, fingerprint
from tasks.training.values import Adoption, Cell

CARD = "cell.json"
CHECKPOINTS = "checkpoints"

Allowance = Literal["world_size"]
"""What may differ from the checkpoint that is gone on from."""

_WORLD = {"ranks", "nodes"}
_BATCH = {"training.per_device_train_batch_size", "training.gradient_accumulation_steps"}
_ADOPTED = "resumed_from"


class Resume(Value):
    """What the command line says of unfinished attempts."""

    required: bool = False
    """Go on from a checkpoint or refuse, instead of beginning anew beside it."""
    allow: tuple[Allowance, ...] = ()


def parse_resume(required: bool, allow: Sequence[str]) -> Resume:
    """What the options `--resume` and `--allow` say; the second implies the first.

    Raises:
        ConfigError: nothing of that name may differ.
    """
    for name in allow:
        if name not in get_args(Allowance):
            raise ConfigError(f"{name!r} may not differ", where="--allow", allowed=", ".join(get_args(Allowance)))
    return Resume.model_validate({"required": required or bool(allow), "allow": tuple(allow)})


class Card(Value):
    """cell.json: what is being trained in a work folder."""

    experiment: str
    label: str
    seed: int
    identity: dict[str, str]
    adopted: Adoption | None = None


class Attempt(Value):
    """An unfinished attempt at the same thing under another identity."""

    work: Path
    card: Card
    step: int
    """Of its newest checkpoint."""


def facts_of(cell: Cell) -> dict[str, str]:
    """Everything that decides a cell's bytes; what it was taken over from is part of it."""
    facts = cell_facts(cell.base, cell.tokens, cell.method, cell.training, Beside(cell.seed, cell.layout, cell.sources))
    if cell.adopted:
        facts[_ADOPTED] = canonical_json(cell.adopted.model_dump(mode="json", exclude={"work"}))
    return facts


def write_card(cell: Cell, work: Path) -> None:
    """Say whose work folder this is."""
    card = Card(
        experiment=cell.experiment, label=cell.label, seed=cell.seed, identity=facts_of(cell), adopted=cell.adopted
    )
    write_durably(work / CARD, card.model_dump_json(indent=2))


def with_past(cell: Cell, resume: Resume, works: Path) -> tuple[Cell, str]:
    """The cell as it will train: as it is, or from another attempt's checkpoint; and what a person should know of it.

    Args:
        cell: as it was planned, without an artifact so far.
        works: where the work folders of all cells lie, by fingerprint.

    Raises:
        ConfigError: it was to go on, and what there is was made under other settings; with the difference.
    """
    if not cell.trains or _steps(works / cell.fingerprint):
        return cell, ""
    attempts = _attempts(cell, works)
    if not attempts:
        return cell, ""
    facts = facts_of(cell)
    if not resume.required:
        farthest = attempts[-1]
        difference = identity_difference(farthest.card.identity, facts)
        return cell, f"begins anew; an attempt that reached step {farthest.step} differs: {difference}"
    return _taken_over(cell, facts, attempts, resume)


def _taken_over(cell: Cell, facts: dict[str, str], attempts: list[Attempt], resume: Resume) -> tuple[Cell, str]:
    for mine in reversed(attempts):  # it was taken over before, and has gone on since
        if mine.card.adopted and _plain(mine.card.identity) == facts:
            return _adopting(cell, mine.card.adopted)
    farthest = attempts[-1]
    _refuse(cell, farthest, facts, resume)
    newest = Checkpoints(farthest.work / CHECKPOINTS, farthest.card.identity).newest()
    manifest = read(farthest.work / CHECKPOINTS / f"step-{newest:08d}") if newest else None
    if newest is None or manifest is None:
        raise ConfigError(f"no checkpoint of {cell.label} is intact", where=str(farthest.work), fix=_ANEW)
    ranks = json.loads(farthest.card.identity["ranks"])
    return _adopting(cell, Adoption(work=farthest.work, step=newest, digest=manifest.digest, ranks=ranks))


def _adopting(cell: Cell, adoption: Adoption) -> tuple[Cell, str]:
    adopting = cell.model_copy(update={"adopted": adoption})
    named = adopting.model_copy(update={"fingerprint": fingerprint(facts_of(adopting))})
    size = f"from {adoption.ranks} ranks to {cell.layout.ranks}"
    return named, f"goes on from step {adoption.step}, {size}: equal within a tolerance, not bit for bit"


_ANEW = "Run it without --resume: it then begins anew in a folder of its own, and nothing is lost"


def _refuse(cell: Cell, attempt: Attempt, facts: dict[str, str], resume: Resume) -> None:
    theirs = attempt.card.identity
    changed = {name for name in theirs.keys() | facts.keys() if theirs.get(name) != facts.get(name)} - {_ADOPTED}
    difference = identity_difference(_plain(theirs), facts)
    what = f"{cell.label} cannot go on from step {attempt.step}: {difference}"
    where = str(attempt.work)
    if not changed <= _WORLD | _BATCH:
        raise ConfigError(what, where=where, fix=f"Take the settings back. {_ANEW}")
    if (was := _global_batch(theirs)) != (now := _global_batch(facts)):
        fix = f"Choose training.gradient_accumulation_steps so that the global batch stays {was}"
        raise ConfigError(f"{what}; the global batch would be {now} instead of {was}", where=where, fix=fix)
    if facts["engine"] != '"ddp"':
        reason = "the optimizer's partitions of ZeRO and FSDP belong to as many ranks as wrote them"
        raise ConfigError(f"{what}; {reason}", where=where, fix=f"Take the number of ranks back. {_ANEW}")
    if "world_size" not in resume.allow:
        fix = f"Add --allow world_size: weights then repeat within a tolerance, not bit for bit. {_ANEW}"
        raise ConfigError(what, where=where, fix=fix)


def _global_batch(identity: Mapping[str, str]) -> int:
    """Rows of one optimiser step over all ranks."""
    sequences, steps = (int(json.loads(identity[name])) for name in sorted(_BATCH))
    return sequences * steps * int(json.loads(identity["ranks"]))


def _plain(identity: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in identity.items() if name != _ADOPTED}


def _attempts(cell: Cell, works: Path) -> list[Attempt]:
    """Unfinished ones at the same label and seed, the farthest last; clocks do not matter."""
    found = []
    for path in works.glob(f"*/{CARD}"):
        card = _read_card(path)
        steps = _steps(path.parent)
        same = card and (card.experiment, card.label, card.seed) == (cell.experiment, cell.label, cell.seed)
        if card and same and steps and path.parent.name != cell.fingerprint:
            found.append(Attempt(work=path.parent, card=card, step=steps[-1]))
    return sorted(found, key=lambda attempt: (attempt.step, attempt.work.name))


def _read_card(path: Path) -> Card | None:
    try:
        return Card.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _steps(work: Path) -> list[int]:
    return Checkpoints(work / CHECKPOINTS, {}).steps()
