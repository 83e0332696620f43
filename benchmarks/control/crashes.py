"""Rows 1, 2, 6 to 14 and 17: killed at some place, then the same command again with `--resume`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.control.stage import SAVE_STEPS, STEPS, Attempt, Case, Stage
from benchmarks.findings import Finding, Verdict

_FILES = ("adapter_model.safetensors", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Of a checkpoint, in the order in which they are written; then comes trainer_state.json."""

_MIDDLE = 3 * SAVE_STEPS


KILLS: tuple[tuple[str, str, str], ...] = (
    ("01", "SIGKILL while the CSV files are read", "kill-in-reading"),
    ("02", "SIGKILL while rows are tokenised", "kill-in-map:50"),
    *((("06", f"SIGKILL in a save, after {file}", f"kill-in-checkpoint:{_MIDDLE}:{file}")) for file in _FILES),
    *(
        ("06", f"SIGKILL in a save, in the middle of {file}", f"kill-in-checkpoint:{_MIDDLE}:half-{file}")
        for file in (_FILES[0], _FILES[2])
    ),
    ("07", "SIGKILL between a save and the deletion of the oldest checkpoint", f"kill-in-rotation:{_MIDDLE}:before"),
    ("08", "SIGKILL when the oldest checkpoint is half deleted", f"kill-in-rotation:{_MIDDLE}:half"),
    ("10", "SIGKILL in the evaluation", "kill-in-evaluation"),
    ("13", "SIGTERM between two saves", f"signal-at-step:{_MIDDLE - 5}:TERM"),
    ("14", "SIGTERM in a save, after the weights", f"kill-in-checkpoint:{_MIDDLE}:{_FILES[0]}:TERM"),
)
"""Row, what is done, and the wound that does it."""


def killed_at(kill: tuple[str, str, str], stage: Stage) -> Iterator[Finding]:
    """One of `KILLS`, and the same command again."""
    row, done, wound = kill
    case = stage.case(f"row-{row}-{wound.replace(':', '-')}")
    yield after_crash(case, row, done, case.run(wound))


def after_crash(case: Case, row: str, done: str, crash: Attempt, changes: Mapping[str, str] = {}) -> Finding:
    """The same command again, and what came of both."""
    again = case.run(resume=True, changes=changes)
    if again.code != 0:
        return Finding(name=row, done=done, saw=f"{crash.ending}; again: {again.ending}", verdict="loud")
    verdict, words = judge(case)
    return Finding(name=row, done=done, saw=f"{crash.ending}; again: exit 0, {words}", verdict=verdict)


def judge(case: Case) -> tuple[Verdict, str]:
    """What a run that ended with 0 left."""
    if case.digest() != case.stage.expected:
        return "silent", "other weights than undisturbed"
    left = []
    if count := case.running():
        left.append(f"{count} run(s) stay RUNNING in MLflow")
    if (steps := case.logged_steps()) < STEPS:
        left.append(f"no run holds the whole loss series ({steps} of {STEPS} steps)")
    return ("leftovers", "the same weights; " + ", ".join(left)) if left else ("right", "the same weights and series")


def killed_in_merge(stage: Stage) -> Iterator[Finding]:
    """Row 9: a folder that looks like a model."""
    case = stage.case("row-09")
    crash = case.run("kill-in-merge")
    whole = stage.undisturbed.output / "merged" / "model.safetensors"
    half = case.output / "merged" / "model.safetensors"
    size = half.stat().st_size / whole.stat().st_size
    found = after_crash(case, "09", "SIGKILL in the middle of the merged weights", crash)
    said = f"{found.saw}; until then merged/ lay there with {size:.0%} of its weights under their final name"
    yield found.model_copy(update={"saw": said})


def killed_in_registration(stage: Stage) -> Iterator[Finding]:
    """Rows 11 and 12: around the version of the registered model."""
    case = stage.case("row-11")
    changes = {"register": "plain"}
    crash = case.run("kill-before-version", changes=changes)
    found = after_crash(case, "11", "SIGKILL between the upload of the model and its version", crash, changes)
    versions = case.ask("select count(*) from model_versions")
    models = case.ask("select count(*) from logged_models")
    yield found.model_copy(update={"saw": f"{found.saw}; {models} uploads and {versions} version(s)"})
    nothing = "it sets no alias"
    yield Finding(name="12", done="SIGKILL between version and alias", saw=nothing, verdict="not applicable")


def killed_for_memory(stage: Stage) -> Iterator[Finding]:
    """Rows 17 and 18: out of memory, on the host and on an accelerator."""
    case = stage.case("row-17")
    attempt = case.run(f"signal-at-step:{SAVE_STEPS + 5}:KILL")
    running = case.running()
    yield Finding(
        name="17",
        done="SIGKILL in a step, as the kernel does when memory runs out",
        saw=f"{attempt.ending}, no word about memory; {running} run(s) stay RUNNING in MLflow",
        verdict="leftovers" if running else "loud",
    )
    case = stage.case("row-18")
    attempt = case.run(f"out-of-memory-at-step:{SAVE_STEPS + 5}")
    saw = f"{attempt.ending}; nothing is tried again, no batch size is advised"
    yield Finding(name="18", done="the accelerator has no memory left in a step", saw=saw, verdict="loud")


def started_twice(stage: Stage) -> Iterator[Finding]:
    """Row 42."""
    case = stage.case("row-42")
    both = [case.start("slow-steps:0.05"), case.start("slow-steps:0.05")]
    ends = [running.wait() for running in both]
    trained = case.ask("select count(distinct run_uuid) from metrics where key = 'loss'")
    same = "the same weights" if case.digest() == stage.expected else "other weights than undisturbed"
    saw = f"{' and '.join(end.ending for end in ends)}; {trained} trainings wrote into one folder, {same}"
    failed = any(end.code != 0 for end in ends)
    yield Finding(
        name="42",
        done="the same command twice at once",
        saw=saw,
        verdict="loud" if failed else "silent" if same.startswith("other") else "leftovers",
    )
