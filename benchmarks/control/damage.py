"""Rows 22 to 24 and 43 to 45: files that are not what they were, clocks, and a resume under other settings."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.control.crashes import judge
from benchmarks.control.stage import SAVE_STEPS, STEPS, Attempt, Case, Stage
from benchmarks.findings import Finding, Verdict

_KILLED_AT = 2 * SAVE_STEPS + 5


def flip(path: Path, place: float = 0.6) -> None:
    """Turn the lowest bit of a byte."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _swap(path: Path) -> None:
    """The file of the checkpoint before."""
    shutil.copy(path.parents[1] / f"checkpoint-{SAVE_STEPS}" / path.name, path)


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "cut in half": _truncate,
    "one bit flipped": flip,
    "empty": _empty,
    "of another step": _swap,
}
CHECKPOINT = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
)


def damaged_caches(stage: Stage) -> Iterator[Finding]:
    """Row 22: a bit in each file of the cached dataset."""
    case = stage.case("row-22")
    case.run(changes={"steps": "1"})
    files = sorted((case.folder / "huggingface" / "datasets").rglob("*.arrow"))
    for path in files:
        flip(path)
    shutil.rmtree(case.output)
    done = f"one bit flipped in each of the {len(files)} files of the cached dataset"
    yield told("22", done, case, case.run())


def damaged_bases(stage: Stage) -> Iterator[Finding]:
    """Row 24."""
    for name, damage in (("one bit flipped", lambda path: flip(path, 0.2)), ("cut in half", _truncate)):
        case = stage.case(f"row-24-{name}")
        base = case.folder / "base"
        base.mkdir()
        for path in stage.world.base.iterdir():  # the original may be read-only, with its folder
            (base / path.name).write_bytes(path.read_bytes())
        damage(base / "model.safetensors")
        yield told("24", f"weights of the base: {name}", case, case.run(changes={"model": str(base)}))


def damaged_checkpoint(file: str, stage: Stage) -> Iterator[Finding]:
    """Row 23: a file of the newest checkpoint, in every way; then the same command again."""
    killed = killed_case(stage, f"row-23-{file}")
    for name, damage in _DAMAGES.items():
        case = copied(killed, f"row-23-{file}-{name}")
        damage(case.output / f"checkpoint-{2 * SAVE_STEPS}" / file)
        yield told("23", f"{file} of the newest checkpoint: {name}", case, case.run(resume=True))


def changed_settings(stage: Stage) -> Iterator[Finding]:
    """Row 44: killed, then resumed under other settings without a word about it."""
    killed = killed_case(stage, "row-44")
    for name, changes in (
        ("learning-rate", {"learning-rate": "1e-3"}),
        ("seed", {"seed": "1"}),
        ("batch-size", {"batch-size": "4"}),
    ):
        case = copied(killed, f"row-44-{name}")
        attempt = case.run(resume=True, changes=changes)
        yield _unasked(f"resumed with another {name}", case, attempt)
    case = copied(killed, "row-44-data")
    lines = (case.folder / "train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (case.folder / "train.csv").write_text("".join([lines[0], *reversed(lines[1:])]), encoding="utf-8")
    yield _unasked("resumed after the rows changed their order", case, case.run(resume=True))


def _unasked(done: str, case: Case, attempt: Attempt) -> Finding:
    """A resume that should have been refused."""
    if attempt.code != 0:
        return Finding(name="44", done=done, saw=attempt.ending, verdict="loud")
    same = case.digest() == case.stage.expected
    what = "the change had no effect: the weights of the old settings" if same else "a mixture of both settings"
    return Finding(name="44", done=done, saw=f"exit 0, {what}, no word", verdict="silent")


def upgraded(stage: Stage) -> Iterator[Finding]:
    """Row 45: the checkpoint says that older libraries wrote it."""
    case = copied(killed_case(stage, "row-45"), "row-45-older")
    for path in case.output.glob("checkpoint-*/adapter_config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config | {"peft_version": "0.1.0"}), encoding="utf-8")
    attempt = case.run(resume=True)
    noticed = "0.1.0" in case.log.read_text(encoding="utf-8")
    saw = f"{attempt.ending}; {'it is mentioned' if noticed else 'no word about it'}, and no other version is recorded"
    verdict: Verdict = "loud" if attempt.code or noticed else "silent"
    yield Finding(name="45", done="resumed from a checkpoint of an older PEFT", saw=saw, verdict=verdict)


def clock_backwards(stage: Stage) -> Iterator[Finding]:
    """Row 43: the clock went back by an hour, so what is written now looks old."""
    case = copied(killed_case(stage, "row-43"), "row-43-back")
    ahead = time.time() + 3600
    for at, path in enumerate(sorted(case.output.glob("checkpoint-*"))):
        os.utime(path, (ahead + 10 * at, ahead + 10 * at))
    killed = case.run(f"signal-at-step:{STEPS - 2}:KILL", resume=True)
    newest, due = max(case.checkpoints()), STEPS - SAVE_STEPS
    saw = f"{killed.ending} at step {STEPS - 2}: the newest checkpoint is of step {newest}"
    lost = newest < due
    yield Finding(
        name="43",
        done="the clock went back an hour between two runs; killed again later",
        saw=f"{saw}, that of step {due} was deleted as the oldest" if lost else saw,
        verdict="silent" if lost else "right",
    )


def told(row: str, done: str, case: Case, attempt: Attempt) -> Finding:
    """A run on damaged files: it says so, it is right all the same, or it is silently wrong."""
    if attempt.code != 0:
        return Finding(name=row, done=done, saw=attempt.ending, verdict="loud")
    if case.digest() == case.stage.expected:
        return Finding(name=row, done=done, saw="exit 0, the same weights", verdict="right")
    return Finding(name=row, done=done, saw=f"exit 0, {judge(case)[1]}", verdict="silent")


def killed_case(stage: Stage, name: str) -> Case:
    """A run that died a little after its second checkpoint."""
    case = stage.case(f"{name}-killed")
    case.run(f"signal-at-step:{_KILLED_AT}:KILL")
    if case.checkpoints() != [SAVE_STEPS, 2 * SAVE_STEPS]:
        raise RuntimeError(f"not as expected: checkpoints of steps {case.checkpoints()}")
    return case


def copied(killed: Case, name: str) -> Case:
    """Its folder as it was, for another ending."""
    case = killed.stage.case(name)
    shutil.rmtree(case.folder)
    shutil.copytree(killed.folder, case.folder)
    return case
