"""Take the tokens that a user names.

A token is found in the text as it stands, wherever it stands, like the special ones of the base. Where that would not
give the text back (SentencePiece models that put a space in front of whatever follows such a token; letters like é in
byte-level ones, which are also the names of bytes) the token is built into the model itself: by merges of BPE, which
need the shorter tokens on the way too, or as a piece of a Unigram model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tasks.foundation.errors import ConfigError
from tasks.vocabulary.document import SETTING
from tasks.vocabulary.original import SPACES, Original, Word, round_trips
from tasks.vocabulary.texts import every_token_exists
from tasks.vocabulary.values import Choice, NewToken

_CARRIERS = ("{}", "a {} b", "a{}b", "{}. a")
"""Texts that have to survive with the token in them; those that the base itself changes say nothing."""


def take(original: Original, wanted: Sequence[str]) -> Choice:
    """Tokens for these texts, each once; what the base has already is left out and counted.

    Raises:
        ConfigError: one of them cannot be a token here, or the base has all of them.
    """
    new = [text for text in dict.fromkeys(wanted) if not _exists(original, text)]
    if not new:
        raise every_token_exists(len(wanted))
    surviving = set() if original.kind == "WordLevel" else _surviving(original, new)
    tokens: dict[str, NewToken] = {}
    for text in new:
        whole = text in surviving or (original.kind == "WordLevel" and original.words_of(text) != [text])
        found = [_whole(original, text)] if whole else _built(original, text, tokens)
        tokens |= {token.piece: token for token in found}
    return Choice(tokens=tuple(tokens.values()), existing=len(wanted) - len(new))


def _exists(original: Original, text: str) -> bool:
    ids = original.ids(text)
    return text in original.vocabulary or (len(ids) == 1 and ids[0] != original.unknown_id)


def _surviving(original: Original, texts: Sequence[str]) -> set[str]:
    """Those that can be found in the text as it stands, and decode to it again."""
    from tokenizers import AddedToken, Tokenizer

    trial = Tokenizer.from_str(original.backend.to_str())
    trial.add_tokens([AddedToken(text, normalized=False, special=False) for text in texts])
    return {
        text
        for text in texts
        if all(
            round_trips(trial, carrier.format(text))
            for carrier in _CARRIERS
            if round_trips(original.backend, carrier.format(text))
        )
    }


def _whole(original: Original, text: str) -> NewToken:
    return NewToken(piece=text, parts=tuple(original.ids(text)), whole=True)


def _built(original: Original, text: str, before: dict[str, NewToken]) -> list[NewToken]:
    """The token as a part of the model, behind a space as a word has one, with the tokens on the way to it."""
    if original.kind == "WordLevel":
        return [NewToken(piece=text, parts=() if original.unknown_id is None else (original.unknown_id,))]
    words = list(original.words([_behind_a_space(original, text.lstrip())], like_a_trainer=False))
    bare = [word for word in words if len(word) > 1 or word[0].piece not in SPACES]
    if len(bare) != 1:
        raise _refusal(text, "the base's tokenizer cuts it into words")
    word = bare[0]
    if word[0].piece in SPACES and not text.startswith(" "):
        word = word[1:]
    if original.kind == "Unigram":
        piece = "".join(symbol.piece for symbol in word)
        return [] if piece in before else [NewToken(piece=piece, parts=_parts(word))]
    found = _merged(original, word, before)
    if found is None:
        raise _refusal(text, "every way to build it would change other texts")
    return found


def _behind_a_space(original: Original, text: str) -> str:
    """SentencePiece puts one in front of every text by itself."""
    pieces = original.backend.encode(text, add_special_tokens=False).tokens
    return text if pieces[:1] and pieces[0].startswith("▁") else f" {text}"


def _refusal(text: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{text!r} cannot be one token of this base: {reason}",
        where=SETTING,
        fix="Leave it out, or learn tokens from text: train: {size: …}",
    )


def _merged(original: Original, word: Word, before: dict[str, NewToken]) -> list[NewToken] | None:
    """BPE: the merges of the word's pieces, through as few new tokens on the way as there can be.

    None of the tokens on the way may be one that the base has: a new merge towards it would cut old texts otherwise.
    None where there is no such way.
    """
    alone = len(word) == 1
    characters = [NewToken(piece=s.piece, parts=s.parts, asked_for=alone) for s in word if not s.known]

    def between(start: int, end: int) -> str:
        return "".join(symbol.piece for symbol in word[start:end])

    @cache
    def way(start: int, end: int) -> tuple[int, tuple[tuple[int, int, int], ...]] | None:
        """How many new tokens it takes, and where to join."""
        if end - start == 1:
            return 0, ()
        piece = between(start, end)
        if piece in original.vocabulary:
            return None
        if piece in before:
            return 0, ()
        ways = []
        for middle in range(start + 1, end):
            left, right = way(start, middle), way(middle, end)
            if left and right:
                ways.append((1 + left[0] + right[0], (*left[1], *right[1], (start, middle, end))))
        return min(ways, default=None)

    best = way(0, len(word))
    if best is None:
        return None
    joins = {
        between(start, end): NewToken(
            piece=between(start, end),
            parts=_parts(word[start:end]),
            merges=((between(start, middle), between(middle, end)),),
            asked_for=end - start == len(word),
        )
        for start, middle, end in best[1]
    }
    return [
        token for token in ({token.piece: token for token in characters} | joins).values() if token.piece not in before
    ]


def _parts(word: Word) -> tuple[int, ...]:
    return tuple(token for symbol in word for token in symbol.parts)
