"""The probe text: another domain, on which the change of the loss is called forgetting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.embedded import EMBEDDED_PREFIX, probe_text
from tasks.evaluation.suite import TokenRow
from tasks.foundation.digests import digest_text
from tasks.foundation.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WHERE = "evaluation.probe"


def probe_digest(probe: str | None) -> str:
    """sha256 of the probe text; empty when none is set.

    Raises:
        DataError: it cannot be read.
    """
    return "" if probe is None else digest_text(read_probe(probe))


def read_probe(probe: str) -> str:
    """The probe text: of a file, or `embedded:probe`.

    Raises:
        DataError: no such file, not UTF-8, or nothing in it.
    """
    if probe == f"{EMBEDDED_PREFIX}probe":
        return probe_text()
    try:
        text = Path(probe).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{probe} cannot be read: {error.strerror}", where=_WHERE) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{probe} is not UTF-8 at byte {error.start}", where=_WHERE) from error
    if not text.strip():
        raise DataError(f"{probe} is empty", where=_WHERE, fix="Name a file with text")
    return text


def probe_windows(text: str, tokenizer: PreTrainedTokenizerBase, window: int, limit: int) -> list[TokenRow]:
    """Consecutive pieces of the text, all of whose tokens count but the first position of each.

    Args:
        text: the probe text.
        tokenizer: of the base; where it begins a text with a start token, so does every window.
        window: tokens per window at most, the start token included.
        limit: tokens of the text at most, start tokens not included.

    Raises:
        DataError: fewer than two tokens.
    """
    start = _start_tokens(tokenizer)
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:limit]
    step = window - len(start)
    pieces = [start + tokens[begin : begin + step] for begin in range(0, len(tokens), step)]
    windows = [TokenRow(f"probe:{n}", piece, [-100, *piece[1:]]) for n, piece in enumerate(pieces) if len(piece) > 1]
    if not windows:
        raise DataError(f"the probe text has {len(tokens)} tokens", where=_WHERE, fix="Name a longer text")
    return windows


def _start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    begins = tokenizer("a")["input_ids"][:1]
    return [tokenizer.bos_token_id] if begins == [tokenizer.bos_token_id] else []
