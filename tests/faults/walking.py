"""The nouns that write, as work that can be done in a child, met by a fault, and done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tasks.artifacts import Artifact, ArtifactStore, verify
from tasks.data.settings import DataSettings
from tasks.embedded.pretrain import build_base
from tasks.evaluation import EvaluationSettings
from tasks.evaluation.evaluate import evaluate
from tasks.foundation import faults
from tasks.foundation.errors import ErrorRecord
from tasks.foundation.faults import ONCE, VARIABLE
from tasks.merging import MergeSettings
from tasks.merging.merge import merge
from tasks.models.values import BaseModel
from tasks.vocabulary.extend import extend
from tests.artifacts.worlds import make
from tests.data.worlds import base_model, make_tokenizer, pairs, tokenized, write_jsonl
from tests.embedded.test_pretrain import TINY
from tests.evaluation.worlds import base_in, ignore_progress, job_on, save_tiny_model, write_csv
from tests.launch.worlds import wait_until
from tests.registry.worlds import make_adapter
from tests.vocabulary.worlds import base_in as base_at
from tests.vocabulary.worlds import job_on as job_for
from tests.vocabulary.worlds import write_base

Work = Callable[[Path], object]
"""Makes what it makes below a folder, or finds it there."""

ENDS = {"kill": -signal.SIGKILL, "term": -signal.SIGTERM, "enospc": 20, "error": 1, "hang": -signal.SIGKILL}
"""Action -> exit code of the child. Whoever watches a hung one kills it, as these tests do."""


class Worked(NamedTuple):
    """A noun's work, and what it leaves undisturbed."""

    work: Work
    digests: dict[str, str]
    sources: Path
    """Folder of what the work reads."""


def walk(worked: Worked, fault: str, folder: Path) -> None:
    """Do the work until it meets the fault, then once more; what is left must be what it leaves undisturbed."""
    mark, root = folder / "mark", folder / "root"
    assert end_of(worked.work, root, {VARIABLE: fault, ONCE: str(mark)}, mark) == ENDS[fault.rpartition(":")[2]]
    assert mark.exists(), "the site was not passed so often"
    assert digests(root).items() <= worked.digests.items(), "a folder under a final name is whole, or is not there"
    assert end_of(worked.work, root, {}, mark) == 0
    assert digests(root) == worked.digests
    assert hidden(root) == set()


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


def vocabulary_work(folder: Path, base: BaseModel, tokens: Artifact) -> Work:
    settings = {"train": {"size": 4}, "steps": 2, "max_length": 32}
    job = job_for(base_at(write_base(folder / "base")), folder / "texts", **settings)
    return lambda root: ArtifactStore(root).make("vocabulary", "k", lambda out: extend(job, out, lambda *_: None))


WORKS: dict[str, Callable[[Path, BaseModel, Artifact], Work]] = {
    "artifact": lambda *_: make,
    "data": data_work,
    "merge": merge_work,
    "evaluate": evaluate_work,
    "embed": embed_work,
    "vocabulary": vocabulary_work,
}


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
