"""A checkpoint of a gang of another size, cut for the ranks of this one.

Weights, optimiser and scheduler are the same on every rank of a DDP gang; what belongs to a single rank is made anew:
random states from seed and step, and the loss since the last logged step as the mean over the old ranks.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.artifacts import MANIFEST, read
from tasks.foundation.errors import ConflictError, IntegrityError
from tasks.training.checkpoints import IDENTITY, Checkpoints
from tasks.training.values import Adoption, TrainRequest

log = logging.getLogger(__name__)

_OF_ONE_RANK = ("rng_state*.pth", "loss_*.json")
_METRICS = "metrics.jsonl"


def take_over(request: TrainRequest) -> None:
    """Fill the checkpoints of a cell that goes on from another attempt; does nothing where it has gone as far itself.

    The one to go on from is copied last: a copy that was broken off is made again.

    Raises:
        ConflictError: the other attempt is still being trained.
        IntegrityError: its checkpoint is not the one that the cell was planned with.
    """
    adopted = request.cell.adopted
    mine = Checkpoints(request.work / "checkpoints", request.identity)
    if adopted is None or any(step >= adopted.step for step in mine.steps()):
        return
    try:
        with FileLock(adopted.work / "lock", timeout=0):
            _copy(adopted, mine, request)
    except Timeout as error:
        what = "the attempt to go on from is still being trained by another run"
        raise ConflictError(what, where=str(adopted.work), fix="End that run first") from error


def _copy(adopted: Adoption, mine: Checkpoints, request: TrainRequest) -> None:
    theirs = Checkpoints(adopted.work / "checkpoints", {})
    newest = read(theirs.path(adopted.step))
    if newest is None or newest.digest != adopted.digest:
        raise IntegrityError("is not the checkpoint that was there before", where=str(theirs.path(adopted.step)))
    if (adopted.work / _METRICS).exists():
        shutil.copyfile(adopted.work / _METRICS, request.work / _METRICS)
    for step in theirs.steps():  # the older ones too: the best evaluation may be among them
        if step > adopted.step:
            continue
        try:
            source = theirs.intact(step)
        except IntegrityError as error:
            if step == adopted.step:
                raise
            log.warning("checkpoint of step %d is damaged (%s); it is left behind", step, error)
            continue
        _cut(source, mine.staging(step), request)
        mine.commit(step)


def _cut(source: Path, target: Path, request: TrainRequest) -> None:
    ignored = shutil.ignore_patterns(*_OF_ONE_RANK, MANIFEST, IDENTITY)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
    step, ranks = int(source.name.removeprefix("step-")), request.cell.layout.ranks
    losses = _mean_losses(source)
    for rank in range(ranks):
        (target / f"loss_{rank}.json").write_text(json.dumps(losses), encoding="utf-8")
        name = "rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth"
        _write_random_state(target / name, request.cell.seed + step + 1_000_003 * rank)


def _mean_losses(source: Path) -> dict[str, float]:
    """Each rank's own sums; the gang logs the mean over its ranks."""
    each = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(source.glob("loss_*.json"))]
    mean = {name: sum(losses[name] for losses in each) / len(each) for name in ("since_logged", "total")}
    return mean | {"last_logged": each[0]["last_logged"]}


def _write_random_state(path: Path, seed: int) -> None:
    """In the Trainer's form. An accelerator's own generator is left as the run's seed has set it."""
    import numpy as np
    import torch

    seed %= 1 << 32
    states = {
        "python": random.Random(seed).getstate(),
        "numpy": np.random.RandomState(seed).get_state(),
        "cpu": torch.Generator().manual_seed(seed).get_state(),
    }
    torch.save(states, path)
