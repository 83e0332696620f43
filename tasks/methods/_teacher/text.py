"""Sequence level: the student learns from text that the teacher writes, over any two vocabularies (arXiv 1606.07947).

A micro-batch is rewritten when its turn comes: its prompts become text, the teacher answers greedily, and the answers
become the student's tokens. So what a step learns from is decided by its rows alone, whoever resumes it, on any rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from tasks.foundation.errors import ConfigError, DataError
from tasks.methods._loss import IGNORED, answer_logits
from tasks.methods._teacher.teacher import Teacher
from tasks.methods._values import Window

_PROBE = "\n"
"""Stands before a text that continues another one, where the tokenizer would add a space of its own to it."""


class Row(NamedTuple):
    """A training row, cut before its last answer."""

    prompt: list[int]
    answered: int
    """Tokens of that answer, its end token included."""
    end: list[int]
    """The token that ended it."""


class Reply(NamedTuple):
    """What the teacher wrote."""

    text: str
    ended: bool
    """Whether it came to an end within the tokens that it may take."""


class TextTeacher(Teacher):
    """A teacher with its own tokenizer.

    Args:
        model: any causal language model.
        tokenizer: the teacher's.
        own: the student's tokenizer.
        max_new_tokens: of an answer, in the teacher's tokens.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, own: Any, max_new_tokens: int) -> None:
        super().__init__(model)
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise ConfigError(
                "level: sequence cannot batch prompts behind a teacher's soft prompt",
                where="methods[distillation].teacher",
                fix="Set level: token, which works since it has the student's vocabulary",
            )
        self._tokenizer = tokenizer
        self._own = own
        self._config = _greedy(model, tokenizer, max_new_tokens)

    def taught(self, student: nn.Module, inputs: Mapping[str, Tensor], window: Window, logits: Tensor | None) -> Tensor:
        rows = [self._cut(*row) for row in _unpadded(inputs)]
        answering = [at for at, row in enumerate(rows) if row.answered]
        replies = self._replies([rows[at].prompt for at in answering], inputs["input_ids"].device)
        answers = dict(zip(answering, replies, strict=True))
        context = _context(student)
        written = [self._written(row, answers.get(at), context) for at, row in enumerate(rows)]
        features = _padded(written, self._own.pad_token_id, inputs["input_ids"].device)
        return _row_means_share(answer_logits(student, features), features["labels"], rows, window)

    def _cut(self, ids: list[int], labels: list[int]) -> Row:
        """Everything before the last answer is its prompt, earlier answers too."""
        end = max((at + 1 for at, label in enumerate(labels) if label != IGNORED), default=0)
        begin = end
        while begin and labels[begin - 1] != IGNORED:
            begin -= 1
        special = end > begin and ids[end - 1] in self._own.all_special_ids
        return Row(ids[:begin] if end else ids, end - begin, [ids[end - 1] if special else self._own.eos_token_id])

    def _replies(self, prompts: Sequence[Sequence[int]], device: torch.device) -> list[Reply]:
        if not prompts:
            return []
        texts = [str(self._own.decode(prompt, skip_special_tokens=True)) for prompt in prompts]
        texts = [text or self._tokenizer.eos_token for text in texts]
        given = self._tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(device)
        width = given["input_ids"].shape[1]
        self._refuse_long(width)
        features = {name: given[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            made = self.on(device).generate(**features, generation_config=self._config)
        masks = given["attention_mask"].tolist()
        return [
            self._reply(row[width - sum(mask) :], sum(mask)) for row, mask in zip(made.tolist(), masks, strict=True)
        ]

    def _reply(self, ids: list[int], prompt: int) -> Reply:
        """The text behind the prompt's, with the spaces that a tokenizer drops from the start of a text."""
        ends: Any = self._config.eos_token_id
        length = next((at for at in range(prompt, len(ids)) if ids[at] in ends), len(ids))
        before, whole, alone = (
            str(self._tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            for part in (ids[:prompt], ids[:length], ids[prompt:length])
        )
        return Reply(whole[len(before) :] if whole.startswith(before) else alone, length < len(ids))

    def _refuse_long(self, width: int) -> None:
        room, asked = _context(self.model), int(self._config.max_new_tokens or 0)
        if width + asked > room:
            raise DataError(
                f"a prompt of {width} tokens and {asked} new ones are over the teacher's context of {room}",
                where="methods[distillation].max_new_tokens",
                fix="Lower it, or data.max_seq_length",
            )

    def _written(self, row: Row, reply: Reply | None, context: int) -> tuple[list[int], list[int]]:
        """Ids and labels of the row with the teacher's answer; an answer that is cut gets no end to learn."""
        if reply is None:
            return row.prompt, [IGNORED] * len(row.prompt)
        answer = self._continued(reply.text) + (row.end if reply.ended else [])
        ids = (row.prompt + answer)[:context]
        return ids, [IGNORED] * len(row.prompt) + ids[len(row.prompt) :]

    def _continued(self, text: str) -> list[int]:
        """The student's ids of a text that stands behind another one."""
        probe, ids = self._ids(_PROBE), self._ids(_PROBE + text)
        return ids[len(probe) :] if ids[: len(probe)] == probe else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return list(self._own(text, add_special_tokens=False, verbose=False)["input_ids"])


def _greedy(model: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    """Ours alone: transformers fills unset options from the model's own configuration, so that one is replaced."""
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = declared if isinstance(declared, list) else [declared]
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=sorted({tokenizer.eos_token_id, *(end for end in ends if end is not None)}),
        pad_token_id=tokenizer.pad_token_id,
    )
    for part in (model, model.get_base_model() if hasattr(model, "get_base_model") else model):
        part.generation_config = config
    return config


def _unpadded(inputs: Mapping[str, Tensor]) -> list[tuple[list[int], list[int]]]:
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    columns = zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), lengths, strict=True)
    return [(ids[:length], labels[:length]) for ids, labels, length in columns]


def _padded(rows: Sequence[tuple[list[int], list[int]]], pad: int, device: torch.device) -> dict[str, Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    gaps = [longest - len(ids) for ids, _ in rows]
    columns = {
        "input_ids": [ids + [pad] * gap for (ids, _), gap in zip(rows, gaps, strict=True)],
        "labels": [labels + [IGNORED] * gap for (_, labels), gap in zip(rows, gaps, strict=True)],
        "attention_mask": [[1] * (longest - gap) + [0] * gap for gap in gaps],
    }
    return {name: torch.tensor(values, device=device) for name, values in columns.items()}


def _row_means_share(logits: Tensor, labels: Tensor, rows: Sequence[Row], window: Window) -> Tensor:
    """Each row's mean over the teacher's tokens counts as much as the answer that it stands for.

    The step's count of tokens is that of the rows as they were, so this is what keeps the sum over micro-batches one
    mean, however long the teacher's answers are.
    """
    wanted = labels[:, 1:]
    losses = cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none").sum(dim=1)
    means = losses / (wanted != IGNORED).sum(dim=1).clamp(min=1)
    weights = torch.tensor([float(row.answered) for row in rows], device=means.device)
    summed = (means * weights).sum()
    if window.items is None:
        return summed / weights.sum().clamp(min=1) / window.micro_batches
    return summed / window.items


def _context(model: Any) -> int:
    """Positions of a model, less those of a soft prompt; more than any row has where it sets no limit."""
    while not hasattr(model, "config"):
        model = model.module
    soft = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    return int(getattr(model.config, "max_position_embeddings", None) or 2**31) - int(soft)
