"""From which checkpoint an attempt goes on: rank 0 looks, all ranks follow, so that they never take different ones."""

from __future__ import annotations

from torch import distributed

from tasks.foundation.errors import ErrorRecord, TunelineError
from tasks.training.checkpoints import Checkpoints


def agreed_step(checkpoints: Checkpoints) -> int | None:
    """Step of the newest intact checkpoint of this run, or None. All ranks must call it.

    Damaged ones are dropped, saying so; every byte of the one that is taken has been verified.

    Raises:
        ConfigError: it was made under other settings; on every rank.
    """
    if not distributed.is_initialized():
        return checkpoints.newest(tidying=True)
    answer: list[tuple[int | None, ErrorRecord | None]] = [(None, None)]
    if distributed.get_rank() == 0:
        try:
            answer[0] = (checkpoints.newest(tidying=True), None)
        except TunelineError as error:
            answer[0] = (None, ErrorRecord.of(error))
    distributed.broadcast_object_list(answer, src=0)
    step, refusal = answer[0]
    if refusal:
        raise refusal.error()
    return step
