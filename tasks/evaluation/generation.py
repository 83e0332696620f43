"""Greedy answers to prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from tasks.data.dialects import Examples
from tasks.data.settings import DataSettings
from tasks.evaluation.loaded import Loaded, batches, check_room, padded, prompt_learning_config
from tasks.evaluation.settings import EvaluationSettings
from tasks.evaluation.suite import Question

log = logging.getLogger(__name__)


def greedy_answers(
    loaded: Loaded, prompts: Sequence[list[int]], settings: EvaluationSettings, advance: Callable[[int], None]
) -> list[str]:
    """One answer per prompt, in their order: the most likely token each time, up to the trained end token.

    Answers do not depend on the batch (but for the last bits of sums): pads lie on the left, outside the attention, and
    positions count from the first real token.

    Raises:
        DataError: prompt + virtual tokens + `max_new_tokens` exceed the model's context.
    """
    config = _own_config(loaded, settings.max_new_tokens)
    answers: dict[int, str] = {}
    for batch in batches([len(prompt) for prompt in prompts], settings.batch_size):
        check_room(loaded, len(prompts[batch[0]]) + settings.max_new_tokens, "a prompt with its answer")
        generated = _generate(loaded, [prompts[index] for index in batch], config)
        answers.update(zip(batch, (_text(loaded, tokens) for tokens in generated), strict=True))
        advance(len(batch))
    return [answers[index] for index in range(len(prompts))]


def prompts_of(
    loaded: Loaded,
    questions: Sequence[Question],
    max_new_tokens: int,
    data: DataSettings,
    examples: Mapping[str, Examples] = {},
) -> tuple[list[list[int]], int]:
    """The questions behind their examples (by question id) as tokens, and how many lost their left end.

    Where `data.truncation` is `truncate`, a prompt that leaves no room for `max_new_tokens` in the model's context is
    cut from the left behind its start token, as the training rows were; otherwise `greedy_answers` refuses it.
    """
    prompts = [loaded.renderer.prompt_ids(question.turns, examples.get(question.id, ())) for question in questions]
    room = loaded.room - max_new_tokens
    too_long = sum(len(prompt) > room for prompt in prompts)
    if not too_long or data.truncation != "truncate" or room < 1:
        return prompts, 0
    log.warning("%d of %d prompts were cut to %d tokens", too_long, len(prompts), room)
    return [_cut(prompt, room, loaded.tokenizer.bos_token_id) for prompt in prompts], too_long


def _cut(prompt: list[int], room: int, start_token: int | None) -> list[int]:
    start = 1 if prompt[0] == start_token else 0
    return prompt if len(prompt) <= room else prompt[:start] + prompt[len(prompt) - room + start :]


def _own_config(loaded: Loaded, max_new_tokens: int) -> GenerationConfig:
    """Ours alone: transformers fills unset options from the model's own generation_config, so that one is replaced."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=list(loaded.renderer.end_token_ids),
        pad_token_id=loaded.tokenizer.pad_token_id,
    )
    for model in (loaded.model, _base_of(loaded.model)):
        model.generation_config = config
    return config


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _generate(loaded: Loaded, prompts: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """New tokens only, per prompt; after an end token pads may follow."""
    ids, mask = padded(prompts, fill=loaded.tokenizer.pad_token_id, left=True, device=loaded.device)
    model: Any = loaded.model
    if (soft := _soft_prompt(model, len(prompts))) is not None:
        inputs, mask = _behind_pads(soft, model.word_embeddings(ids), mask)
        new = _base_of(model).generate(inputs_embeds=inputs, attention_mask=mask, generation_config=config)
    else:
        new = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
    return new.tolist()  # type: ignore[no-any-return]


def _soft_prompt(model: Any, rows: int) -> torch.Tensor | None:
    """The embeddings [rows, virtual tokens, hidden] that a method puts in front of the input, if it does.

    Prefix tuning keeps keys and values instead: that is a cache, and `generate` handles it.
    """
    if prompt_learning_config(model) is None:
        return None
    prompt = model.get_prompt(rows)
    return prompt if isinstance(prompt, torch.Tensor) else None


def _behind_pads(soft: torch.Tensor, embedded: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[pads, soft prompt, prompt] per row, with its mask.

    PEFT's own `generate` puts the pads between the soft prompt and the prompt and drops position_ids, so an answer
    would depend on the length of its neighbours (measured with prompt tuning and P-tuning).
    """
    starts = (mask.shape[1] - mask.sum(dim=1)).tolist()
    soft = soft.to(embedded.dtype)
    inputs = [
        torch.cat((row[:start], own, row[start:])) for row, own, start in zip(embedded, soft, starts, strict=True)
    ]
    return torch.stack(inputs), torch.cat((mask, mask.new_ones(soft.shape[:2])), dim=1)


def _text(loaded: Loaded, tokens: list[int]) -> str:
    ends = set(loaded.renderer.end_token_ids)
    length = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    text = loaded.tokenizer.decode(tokens[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip()
