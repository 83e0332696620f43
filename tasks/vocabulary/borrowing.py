"""Take over what another tokenizer knows and the base's does not (as Chinese-LLaMA did: Cui et al. 2023,
https://arxiv.org/abs/2304.08177)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.foundation.errors import ConfigError
from tasks.vocabulary.document import (
    SETTING,
    Document,
    added_ids,
    extended,
    is_byte_level,
    is_metaspace,
    read_document,
    vocabulary,
)
from tasks.vocabulary.original import Original
from tasks.vocabulary.values import Choice, NewToken


def borrow(original: Original, folder: Path) -> Choice:
    """The other vocabulary's pieces, in the base's spelling and in the order of the other one.

    In BPE a piece is reached by merging any two that make it up (what converters from SentencePiece do); one that no
    chain of merges reaches is left out, and counted.

    Raises:
        ConfigError: no such tokenizer, or there is nothing new in it.
    """
    theirs = read_document(folder, extends=False)
    spelt = [piece for said in _texts(theirs) if (piece := _spelt(original, said)) is not None]
    pieces = [piece for piece in dict.fromkeys(spelt) if piece not in original.vocabulary]
    tokens = [NewToken(piece=piece, parts=_parts(original, piece)) for piece in pieces if _is_a_word(original, piece)]
    reached = _reached(original, tokens) if original.kind == "BPE" else tokens
    if not reached:
        raise ConfigError(f"{folder} knows no token that the base lacks", where=SETTING, fix="Name another tokenizer")
    unreachable = len(pieces) - len(reached)
    return Choice(tokens=tuple(reached), existing=len(spelt) - len(pieces), unreachable=unreachable)


def _texts(document: Document) -> list[bytes]:
    """What the pieces stand for, in the order of their ids; neither special tokens nor single bytes."""
    special, metaspace, byte_level = added_ids(document), is_metaspace(document), is_byte_level(document)
    ordered = sorted(vocabulary(document).items(), key=lambda entry: entry[1])
    pieces = [piece for piece, at in ordered if at not in special and piece]
    if byte_level:
        letters = {letter: byte for byte, letter in _byte_letters().items()}
        return [bytes(map(letters.__getitem__, piece)) for piece in pieces if set(piece) <= set(letters)]
    words = [piece for piece in pieces if not (piece.startswith("<0x") and piece.endswith(">"))]
    return [(word.replace("▁", " ") if metaspace else word).encode("utf-8", "replace") for word in words]


def _spelt(original: Original, said: bytes) -> str | None:
    """The piece as the base's vocabulary would write it; None for half a character where it writes characters."""
    if original.byte_level:
        letters = _byte_letters()
        return "".join(letters[byte] for byte in said)
    try:
        text = said.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text.replace(" ", "▁") if original.metaspace else text


def _byte_letters() -> dict[int, str]:
    """Byte -> the letter that stands for it in byte-level vocabularies (GPT-2's table): itself where it can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + at) for at, byte in enumerate(hidden)}


def _is_a_word(original: Original, piece: str) -> bool:
    """False where the base would cut it before looking for pieces."""
    if original.metaspace:
        return "▁" not in piece[1:] and piece != "▁"
    if not original.byte_level:
        return original.words_of(piece) == [piece]
    letters = {letter: byte for byte, letter in _byte_letters().items()}
    try:
        text = bytes(letters[letter] for letter in piece).decode("utf-8")
    except UnicodeDecodeError:
        return True
    return original.words_of(text) == [piece]


def _parts(original: Original, piece: str) -> tuple[int, ...]:
    return tuple(token.id for token in original.backend.model.tokenize(piece))


def _reached(original: Original, tokens: Sequence[NewToken]) -> list[NewToken]:
    """Those that the merges arrive at; leaving one out can take the way to another, so until all of them are."""
    kept = list(tokens)
    while kept:
        known = set(original.vocabulary) | {token.piece for token in kept}
        kept = [token.model_copy(update={"merges": _splits(token.piece, known)}) for token in kept]
        model = _model(extended(original.document, kept))
        reached = [token for token in kept if [part.value for part in model.tokenize(token.piece)] == [token.piece]]
        if len(reached) == len(kept):
            break
        kept = reached
    return kept


def _splits(piece: str, known: set[str]) -> tuple[tuple[str, str], ...]:
    halves = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
    return tuple((left, right) for left, right in halves if left in known and right in known)


def _model(document: Document) -> Any:
    import json

    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(document, ensure_ascii=False)).model
