"""Every noun that writes, killed, stopped, out of disk, failing and hanging at each of its sites; then once more.

Each case runs the noun's own function through the artifact store in a forked child, as the pipeline's children do.
What the next run leaves must be what an undisturbed one leaves, to the last byte. Training walks its sites in one
chain: each start goes on from what the last fault left, and carries the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.digests import digest_file
from tasks.foundation.faults import ONCE, SITES, VARIABLE
from tasks.models.values import BaseModel
from tasks.tracking import Run, create_run
from tasks.tracking.events import RunFinished
from tasks.tracking.journal import journals, read_entries
from tasks.tracking.owner import reconcile
from tasks.training.checkpoints import Checkpoints
from tasks.training.settings import TrainingSettings
from tests.faults.walking import ENDS, WORKS, Worked, digests, end_of, walk
from tests.launch.worlds import wait_until
from tests.training.ranks import run_ranks, start_ranks, trained_by_ranks
from tests.training.worlds import LORA, loss_series, request_in, toy_cell

Nouns = Callable[[str], Worked]

COMMIT = ("artifact.build:1", "artifact.file:2", "artifact.manifest:1", "artifact.rename:1", "artifact.done:1")


def each(*passages: str, slow: bool = False) -> list[object]:
    """Every action at every passage of a site; of slow work all but the kills are left to the system tests."""
    return [
        pytest.param(f"{passage}:{action}", marks=[pytest.mark.system] if slow and action != "kill" else [])
        for passage in passages
        for action in ENDS
    ]


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, base: BaseModel, tokens: Artifact) -> Nouns:
    """Each noun's work, done undisturbed once when it is first asked for."""
    made: dict[str, Worked] = {}

    def of(noun: str) -> Worked:
        if noun not in made:
            folder = tmp_path_factory.mktemp(noun)
            work = WORKS[noun](folder, base, tokens)
            work(folder / "undisturbed")
            made[noun] = Worked(work, digests(folder / "undisturbed"), folder)
        return made[noun]

    return of


@pytest.mark.parametrize("fault", each(*COMMIT))
def test_an_artifact_is_committed_whole_or_not_at_all(fault: str, worked: Nouns, tmp_path: Path) -> None:
    walk(worked("artifact"), fault, tmp_path)


@pytest.mark.parametrize("fault", each("prepare.write:1", "prepare.write:2", "prepare.write:3"))
def test_row_01_whatever_happens_at_a_write_of_the_data_step_the_next_run_leaves_the_same_bytes(
    fault: str, worked: Nouns, tmp_path: Path
) -> None:
    walk(worked("data"), fault, tmp_path)


@pytest.mark.parametrize("fault", each("tokenize.batch:1", "tokenize.batch:2", "tokenize.write:1", "tokenize.write:2"))
def test_row_02_half_a_tokenisation_is_never_used_again(fault: str, worked: Nouns, tmp_path: Path) -> None:
    walk(worked("data"), fault, tmp_path)


@pytest.mark.parametrize("fault", each("merge.shard:1", "merge.prove:1", slow=True))
def test_row_09_a_broken_merge_leaves_no_model_and_the_adapter_as_it_was(
    fault: str, worked: Nouns, tmp_path: Path
) -> None:
    merging = worked("merge")
    before = files_of(merging.sources)
    walk(merging, fault, tmp_path)
    assert before and files_of(merging.sources) == before


@pytest.mark.parametrize("fault", each("evaluate.batch:2", "evaluate.write:1", "evaluate.write:2", slow=True))
def test_row_10_a_broken_evaluation_leaves_no_score_and_the_next_one_the_same_scores(
    fault: str, worked: Nouns, tmp_path: Path
) -> None:
    walk(worked("evaluate"), fault, tmp_path)


@pytest.mark.parametrize("fault", each("embed.step:2", slow=True))
def test_a_broken_pretraining_of_the_embedded_base_leaves_none(fault: str, worked: Nouns, tmp_path: Path) -> None:
    walk(worked("embed"), fault, tmp_path)


@pytest.mark.parametrize("fault", each("vocabulary.step:2", "vocabulary.write:1", slow=True))
def test_a_broken_extension_of_a_vocabulary_leaves_no_base(fault: str, worked: Nouns, tmp_path: Path) -> None:
    walk(worked("vocabulary"), fault, tmp_path)


@pytest.mark.parametrize("fault", each("track.journal:1", "track.journal:3", "track.journal:5"))
def test_whatever_happens_to_a_run_s_writer_its_journal_is_whole_and_gets_one_end(fault: str, tmp_path: Path) -> None:
    mark, spool = tmp_path / "mark", tmp_path / "spool"
    assert end_of(record, spool, {VARIABLE: fault, ONCE: str(mark)}, mark) == ENDS[fault.rpartition(":")[2]]
    assert mark.exists()
    assert end_of(record, spool, {}, mark) == 0
    statuses = [end_in(journal) for journal in journals(spool)]
    assert sorted(statuses) == ["FINISHED", "KILLED"]
    assert list(spool.glob("*.owner")) == []


def record(spool: Path) -> None:
    """Close what an earlier writer left open, and record a run with five appends."""
    reconcile(spool)
    run = Run(create_run(spool, name="run", experiment="e"))
    run.log_params({"a": 1})
    for step in range(3):
        run.log_metrics({"loss": 1.0}, step)
    run.finish("FINISHED")


def end_in(journal: Path) -> str:
    """The status of the only end, of a journal in which every line is an event."""
    events = [entry.event for entry in read_entries(journal, 0, 1 << 20)]
    assert None not in events
    (end,) = [event for event in events if isinstance(event, RunFinished)]
    assert events[-1] == end
    return end.status


def files_of(folder: Path) -> dict[str, str]:
    paths: Iterable[Path] = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}


# --- training -------------------------------------------------------------------------------------------------------

WALKED = TrainingSettings(max_steps=60, per_device_train_batch_size=4, save_steps=2, save_total_limit=2, eval_steps=4)
TRAINING_SITES = [site for site in SITES if site.startswith(("train.", "checkpoint."))]
SEEN_ONCE = ("train.load", "train.finish", "train.save", "train.result")
TRAINING_ENDS = {"kill": {-9}, "enospc": {20}, "error": {1}, "hang": {-9}, "term": {143, -15, 0}}
"""SIGTERM during the start ends a rank at once, during training at a checkpoint, and after the last step not at all."""


def training_faults(action: str) -> Iterator[str]:
    """One fault per site, at its second passage where there is one: so every start gets on by a step or two."""
    for site in TRAINING_SITES:
        yield f"{site}:{1 if site in SEEN_ONCE else 2}:{action}"


@pytest.mark.parametrize(
    "action", ["kill", *(pytest.param(action, marks=pytest.mark.system) for action in ENDS if action != "kill")]
)
def test_training_that_met_a_fault_at_each_of_its_sites_ends_with_the_same_bytes_and_series(
    action: str, base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    cell = toy_cell(base, tokens, LORA, WALKED)
    whole = request_in(tmp_path / "whole", cell)
    expected = trained_by_ranks(whole)
    request = request_in(tmp_path / "walked", cell)
    for number, fault in enumerate(training_faults(action)):
        mark = tmp_path / f"mark{number}"
        environment = {VARIABLE: fault, ONCE: str(mark)}
        if action == "hang":
            (rank,) = start_ranks(request, **environment)
            wait_until(mark.exists)
            rank.kill()
            rank.join()
            codes = [int(rank.exitcode or 0)]
        else:
            codes = run_ranks(request, **environment)
        assert mark.exists(), f"{fault}: the site was not passed so often"
        assert set(codes) <= TRAINING_ENDS[action], fault
        checkpoints = Checkpoints(request.work / "checkpoints", request.identity)
        steps = checkpoints.steps()
        assert [step for step in steps if not checkpoints.intact(step).is_dir()] == []
    result = trained_by_ranks(request)
    assert result.weights_digest == expected.weights_digest
    assert loss_series(request) == loss_series(whole)
    assert [step for step, _ in loss_series(request)] == list(range(1, result.steps + 1))
