"""The plain script is really hurt, and what becomes of it is told apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.control.crashes import KILLS, killed_at
from benchmarks.control.damage import copied, killed_case, told
from benchmarks.control.resources import not_finite
from benchmarks.control.stage import SAVE_STEPS, STEPS, Attempt, Stage, WarmScript
from tests.benchmarks.conftest import write_world
from tests.launch.worlds import wait_until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The tiny model; the script imported once."""
    folder = tmp_path_factory.mktemp("stage")
    world = write_world(folder)
    work = world.work.model_copy(update={"steps": STEPS, "save_steps": SAVE_STEPS})
    with WarmScript(folder) as script:
        yield Stage(folder, world.model_copy(update={"work": work}), script)


def kill(wound: str) -> tuple[str, str, str]:
    return next(one for one in KILLS if wound in one[2])


@pytest.mark.parametrize(
    ("attempt", "ending"),
    [
        (Attempt(code=0, seconds=3, said="done"), "exit 0"),
        (Attempt(code=1, seconds=3, said="ValueError: no"), "exit 1 (ValueError: no)"),
        (Attempt(code=-9, seconds=3, said="step 3"), "killed by SIGKILL"),
        (Attempt(code=None, seconds=60.4, said="step 3"), "still running after 60 s"),
    ],
)
def test_how_a_run_ended_is_said_in_a_few_words(attempt: Attempt, ending: str) -> None:
    assert attempt.ending == ending


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_a_kill_in_a_save_is_met_again_by_the_next_run_and_one_before_it_is_not(stage: Stage) -> None:
    (torn,) = killed_at(kill("30:optimizer.pt"), stage)
    assert torn.verdict == "loud"
    assert torn.saw.startswith("killed by SIGKILL; again: exit 1 ")
    (early,) = killed_at(kill("kill-in-reading"), stage)
    assert (early.verdict, early.saw) == ("right", "killed by SIGKILL; again: exit 0, the same weights and series")


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_a_missing_optimizer_is_silent_and_a_missing_state_is_not(stage: Stage) -> None:
    killed = killed_case(stage, "damage")
    found = {}
    for file in ("optimizer.pt", "trainer_state.json"):
        case = copied(killed, f"without-{file}")
        (case.output / f"checkpoint-{2 * SAVE_STEPS}" / file).unlink()
        found[file] = told("23", file, case, case.run(resume=True)).verdict
    assert found == {"optimizer.pt": "silent", "trainer_state.json": "loud"}


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_a_loss_that_is_not_a_number_is_saved_without_a_word(stage: Stage) -> None:
    nan = next(not_finite(stage))
    assert (nan.name, nan.verdict) == ("32", "silent")


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("wound", ["hang-at-step:15", "hang-in-loader:15"])
def test_a_run_that_hangs_is_ended_at_the_bound(stage: Stage, wound: str) -> None:
    case = stage.case(wound)
    running = case.start(wound)
    wait_until(lambda: SAVE_STEPS in case.checkpoints())
    assert running.wait(bound=0).code is None
