"""Every noun that writes, killed, stopped, out of disk, failing and hanging at each of its sites; then once more.

Each case runs the noun's own function through the artifact store in a forked child, as the pipeline's children do.
What the next run leaves must be what an undisturbed one leaves, to the last byte. Training walks its sites in one
chain: each start goes on from what the last fault left, and carries the next one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.artifacts import Artifact, ArtifactStore, verify
from tasks.data.settings import DataSettings
from tasks.embedded.pretrain import build_base
from tasks.evaluation import EvaluationSettings
from tasks.evaluation.evaluate import evaluate
from tasks.foundation import faults
from tasks.foundation.errors import ErrorRecord
from tasks.foundation.faults import ONCE, SITES, VARIABLE
from tasks.merging import MergeSettings
from tasks.merging.merge import merge
from tasks.models.values import BaseModel
from tasks.training.checkpoints import Checkpoints
from tasks.training.settings import TrainingSettings
from tests.artifacts.worlds import make
from tests.data.worlds import base_model, make_tokenizer, pairs, tokenized, write_jsonl
from tests.embedded.test_pretrain import TINY
from tests.evaluation.worlds import base_in, ignore_progress, job_on, save_tiny_model, write_csv
from tests.launch.worlds import wait_until
from tests.registry.worlds import make_adapter
from tests.training.ranks import run_ranks, start_ranks, trained_by_ranks
from tests.training.worlds import LORA, loss_series, request_in, toy_cell

Work = Callable[[Path], object]
"""Makes what it makes below a folder, or finds it there."""

ENDS = {"kill": -signal.SIGKILL, "term": -signal.SIGTERM, "enospc": 20, "error": 1, "hang": -signal.SIGKILL}
"""Action -> exit code of the child. Whoever watches a hung one kills it, as this test does."""

SITES_OF = {
    "artifact": ("artifact.build", "artifact.file", "artifact.manifest", "artifact.rename", "artifact.done"),
    "data": ("prepare.write", "tokenize.batch", "tokenize.write"),
    "merge": ("merge.shard", "merge.prove"),
    "evaluate": ("evaluate.batch", "evaluate.write"),
    "embed": ("embed.step",),
}
PASSAGES = {"artifact.file": 2, "prepare.write": 3, "tokenize.batch": 2, "tokenize.write": 2, "evaluate.write": 2}
"""How often the work passes a site, where it is more than once and each passage is a write of its own."""
QUICK = {"artifact", "data"}
CASES = [
    pytest.param(
        noun,
        f"{site}:{passage}:{action}",
        marks=[] if noun in QUICK or action == "kill" else pytest.mark.system,
        id=f"{site}-{passage}-{action}",
    )
    for noun, sites in SITES_OF.items()
    for site in sites
    for passage in range(1, PASSAGES.get(site, 1) + 1)
    for action in ENDS
]


class Worked(NamedTuple):
    """A noun's work, and what it leaves undisturbed."""

    work: Work
    digests: dict[str, str]


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, base: BaseModel, tokens: Artifact) -> Callable[[str], Worked]:
    """Each noun's work, made once when it is first asked for."""
    made: dict[str, Worked] = {}

    def of(noun: str) -> Worked:
        if noun not in made:
            folder = tmp_path_factory.mktemp(noun)
            work = WORKS[noun](folder, base, tokens)
            work(folder / "undisturbed")
            made[noun] = Worked(work, digests(folder / "undisturbed"))
        return made[noun]

    return of


def data_work(folder: Path, base: BaseModel, tokens: Artifact) -> Work:
    rows = write_jsonl(folder / "rows.jsonl", pairs(40))
    settings = DataSettings(train=rows, eval_fraction=0.3, max_seq_length=96)
    return partial(tokenized, settings, base_model(make_tokenizer(), folder / "base"))


def merge_work(folder: Path, base: BaseModel, tokens: Artifact) -> Work:
    build = partial(merge, make_adapter("lora", base, folder / "adapter"), tokens, MergeSettings(rows=2))
    return lambda root: ArtifactStore(root).make("merge", "k", build)


def evaluate_work(folder: Path, base: BaseModel, tokens: Artifact) -> Work:
    rows = write_csv(folder / "rows.csv", [(f"ask {row}", f"say {row}") for row in range(12)])
    settings = EvaluationSettings(metrics=("loss", "exact_match"), max_new_tokens=4, batch_size=4)
    data = DataSettings(train=str(rows), eval_fraction=0.5, max_seq_length=96)
    job = job_on(base_in(save_tiny_model(folder / "base")), data, settings, folder)
    return lambda root: ArtifactStore(root).make("evaluate", "k", lambda out: evaluate(job, out, ignore_progress))


def embed_work(folder: Path, base: BaseModel, tokens: Artifact) -> Work:
    def build(out: Path) -> None:
        build_base(out, lambda *_: None, TINY)

    return lambda root: ArtifactStore(root).make("base", "k", build)


WORKS: dict[str, Callable[[Path, BaseModel, Artifact], Work]] = {
    "artifact": lambda *_: make,
    "data": data_work,
    "merge": merge_work,
    "evaluate": evaluate_work,
    "embed": embed_work,
}


@pytest.mark.parametrize(("noun", "fault"), CASES)
def test_after_any_fault_at_any_site_the_next_run_leaves_the_same_bytes(
    noun: str, fault: str, worked: Callable[[str], Worked], tmp_path: Path
) -> None:
    work, expected = worked(noun)
    mark, root = tmp_path / "mark", tmp_path / "root"
    assert end_of(work, root, {VARIABLE: fault, ONCE: str(mark)}, mark) == ENDS[fault.rpartition(":")[2]]
    assert mark.exists(), "the site was not passed so often"
    whole = digests(root)
    assert whole.items() <= expected.items(), "a folder under a final name is whole, or is not there"
    assert end_of(work, root, {}, mark) == 0
    assert digests(root) == expected
    assert hidden(root) == set()


def end_of(work: Work, root: Path, environment: dict[str, str], mark: Path) -> int:
    """Work in a forked child, and its exit code; one that hangs is killed."""

    def run() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ |= environment
        faults.arm()
        try:
            work(root)
        except Exception as error:
            traceback.print_exc()
            os._exit(ErrorRecord.of(error).exit_code)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)  # none outlives a failed test
    process.start()
    if environment.get(VARIABLE, "").endswith(":hang"):
        wait_until(mark.exists)
        process.kill()
    process.join()
    return int(process.exitcode or 0)


def digests(root: Path) -> dict[str, str]:
    """Step and key -> digest of everything that lies under a final name, verified."""
    return {
        path.relative_to(root).as_posix(): verify(path).digest
        for path in sorted(root.glob("*/*"))
        if path.is_dir() and not path.name.startswith(".")
    }


def hidden(root: Path) -> set[str]:
    """What is left of unfinished work: nothing but locks may be."""
    return {path.name for path in root.glob("*/.*") if path.suffix != ".lock"}


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
