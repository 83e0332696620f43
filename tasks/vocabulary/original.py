"""The base's tokenizer as it works before it is extended."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from tasks.foundation.errors import ConfigError
from tasks.models.loading import load_tokenizer
from tasks.models.values import BaseModel
from tasks.vocabulary.document import (
    SETTING,
    added_ids,
    is_byte_level,
    is_metaspace,
    kind_of,
    read_document,
    vocabulary,
)

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

SPACES = ("▁", "Ġ")
"""A space alone, as pieces write it."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BATCH = 1000


class Symbol(NamedTuple):
    """A piece of a word, or a character that the vocabulary lacks and spells with `parts`."""

    piece: str
    parts: tuple[int, ...]
    known: bool


Word = tuple[Symbol, ...]


class Original:
    """The tokenizer that transformers loads (classes may build another pipeline than the file says), and its file."""

    def __init__(self, base: BaseModel) -> None:
        """Read it.

        Raises:
            ConfigError: it is no fast tokenizer, or of a kind that cannot be extended.
        """
        self.document = read_document(base.path, extends=True)
        self.kind = kind_of(self.document)
        self.tokenizer = load_tokenizer(base)
        if not self.tokenizer.is_fast:
            raise ConfigError(
                f"{base.name} has a tokenizer written in Python",
                where=SETTING,
                allowed="a fast tokenizer (tokenizer.json)",
            )
        self.vocabulary = vocabulary(self.document)
        self.byte_level, self.metaspace = is_byte_level(self.document), is_metaspace(self.document)
        self._added = added_ids(self.document)

    @cached_property
    def backend(self) -> Tokenizer:
        """The tokenizers library's own object: a copy that neither cuts nor fills."""
        return backend_of(self.tokenizer)

    @property
    def unknown_id(self) -> int | None:
        """Id of the piece for what the vocabulary cannot spell."""
        model = self.document["model"]
        found: int | None = (
            model.get("unk_id") if self.kind == "Unigram" else self.vocabulary.get(model.get("unk_token"))
        )
        return found

    def words(self, texts: Iterable[str], *, like_a_trainer: bool = True) -> Counter[Word]:
        """How the base cuts the words of texts, and how often each stands there.

        `like_a_trainer`: where the base cuts no words (SentencePiece), cut them as its trainer would have done.
        """
        cut = self.metaspace and like_a_trainer
        counted: Counter[Word] = Counter()
        for batch in batched(texts):
            for text, encoding in zip(batch, self.backend.encode_batch(batch, add_special_tokens=False), strict=True):
                counted.update(self._words(text, encoding, cut=cut))
        return counted

    def _words(self, text: str, encoding: Encoding, *, cut: bool) -> Iterator[Word]:
        word: list[Symbol] = []
        last: int | None = None
        for symbol, at in self._symbols(text, encoding):
            begins = at != last or (cut and bool(word) and symbol is not None and _parts_here(word[-1], symbol))
            if word and (begins or symbol is None):
                yield tuple(word)
                word = []
            last = at
            if symbol is not None:
                word.append(symbol)
        if word:
            yield tuple(word)

    def _symbols(self, text: str, encoding: Encoding) -> Iterator[tuple[Symbol | None, int | None]]:
        """Symbols with the number of their word; None for a token that stands outside of words."""
        rows = zip(encoding.tokens, encoding.ids, encoding.offsets, encoding.word_ids, strict=True)
        for (spelt, _, at), group in groupby(rows, key=lambda row: (bool(_BYTE.fullmatch(row[0])), row[2], row[3])):
            pieces = list(group)
            character = _character([row[0] for row in pieces]) if spelt and self.metaspace else ""
            if character:
                yield Symbol(character, tuple(row[1] for row in pieces), known=False), at
                continue
            for piece, token, offsets, _ in pieces:
                if token == self.unknown_id:
                    said = text[slice(*offsets)].strip()
                    yield from ((Symbol(character, (token,), known=False), at) for character in said)
                else:
                    yield (None if token in self._added else Symbol(piece, (token,), known=True)), at

    def ids(self, text: str) -> list[int]:
        """The ids of a text by itself, without the space that SentencePiece puts in front of it."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        bare = bool(encoding.tokens) and encoding.tokens[0] in SPACES and not text.startswith(" ")
        return list(encoding.ids[1:] if bare else encoding.ids)

    def words_of(self, text: str) -> list[str]:
        """How the text is cut before its pieces are looked for."""
        normalizer, cutter = self.backend.normalizer, self.backend.pre_tokenizer
        shown = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in cutter.pre_tokenize_str(shown)] if cutter else [shown]


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizers library's own object: a copy that neither cuts nor fills."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def round_trips(backend: Tokenizer, text: str) -> bool:
    """True where decoding gives back what was encoded."""
    return bool(backend.decode(backend.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text)


def _parts_here(left: Symbol, right: Symbol) -> bool:
    """SentencePiece cuts no words beforehand; its trainer lets no token hold a second space, or letters and others."""
    if right.piece.startswith("▁"):
        return True
    return left.piece != "▁" and _sort_of(left.piece[-1]) != _sort_of(right.piece[0])


def _sort_of(character: str) -> str:
    """`L` letters and their marks, `N` digits, `O` anything else."""
    sort = unicodedata.category(character)[0]
    return {"L": "L", "M": "L", "N": "N"}.get(sort, "O")


def batched(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    """Lists of at most a thousand."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _character(spelt: Sequence[str]) -> str:
    """The character that pieces such as <0xE9> spell; empty where they spell none."""
    try:
        said = bytes(int(piece[3:5], 16) for piece in spelt).decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return said if len(said) == 1 else ""
