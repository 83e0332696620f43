"""What a candidate answers, asked in this process or in a new one: `python -m tests.methods.reloading FOLDER`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.methods import Candidate
from tasks.methods.loading import load_candidate
from tests.methods.cases import logits
from tests.models.tiny import token_batch

CANDIDATE = "candidate.json"
ANSWERS = "answers.safetensors"
FAILURE = "failure.txt"
_ROOT = Path(__file__).parents[2]


class Answers(NamedTuple):
    """Of one model."""

    logits: torch.Tensor
    """[rows, tokens, vocabulary]"""
    written: torch.Tensor
    """[rows, tokens]: prompts with what greedy decoding wrote behind them."""


def answers_of(model: nn.Module) -> Answers:
    """Nothing is drawn: sampling is off in so many words, whatever the model's own generation settings say."""
    prompts = token_batch()[:, :6]
    given = logits(model)
    with torch.no_grad():
        written = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=1,
        )
    return Answers(given, written)


def ask_in_a_new_process(folder: Path) -> None:
    """Have one new process load every candidate below `folder` and leave its answers, or what went wrong, beside it."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(
        [sys.executable, "-m", "tests.methods.reloading", str(folder)], cwd=_ROOT, env=environment, check=True
    )


def answers_in(folder: Path) -> Answers:
    """What the new process left for one candidate."""
    if (folder / FAILURE).exists():
        raise AssertionError((folder / FAILURE).read_text(encoding="utf-8"))
    stored = load_file(folder / ANSWERS)
    return Answers(stored["logits"], stored["written"])


def _main(folder: Path) -> None:
    for place in sorted(path.parent for path in folder.glob(f"*/{CANDIDATE}")):
        candidate = Candidate.model_validate(json.loads((place / CANDIDATE).read_text(encoding="utf-8")))
        try:
            answers = answers_of(load_candidate(candidate))
            save_file({name: tensor.contiguous() for name, tensor in answers._asdict().items()}, place / ANSWERS)
        except Exception:  # of one case: the others still answer
            (place / FAILURE).write_text(traceback.format_exc(), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
