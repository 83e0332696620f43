"""sample.md: a few rows with their mask made visible."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from tasks.data.sequences import Sequence
from tasks.data.templates import MASKED


def render_sample(sequences: Iterable[Sequence], tokenizer: Any) -> str:
    """Markdown that shows what of each sequence is masked and what is learned; line ends and quotes are escaped."""
    parts = ["# What the loss sees\n"]
    for sequence in sequences:
        learned = sum(label != MASKED for label in sequence.labels)
        parts.append(f"## {sequence.id[:12]}: {len(sequence.input_ids)} tokens, {learned} learned\n")
        parts += ["```text", *_lines(sequence, tokenizer), "```\n"]
    return "\n".join(parts)


def _lines(sequence: Sequence, tokenizer: Any) -> Iterable[str]:
    pairs = zip(sequence.input_ids, sequence.labels, strict=True)
    for masked, group in groupby(pairs, key=lambda pair: pair[1] == MASKED):
        text = tokenizer.decode([token for token, _ in group], skip_special_tokens=False)
        yield f"{'masked ' if masked else 'learned'} {json.dumps(text, ensure_ascii=False)}"
