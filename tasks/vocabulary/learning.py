"""Learn new tokens from text: byte-pair encoding that goes on where the base's tokenizer stopped.

The base cuts the text into its own pieces; then, again and again, the pair of neighbours in a word that would save most
tokens becomes a token (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909). A character that the base can only
spell in bytes saves all of them but one. So every new token stands for a fixed sequence of the base's own, and the new
merges, all of which come after the old ones, leave every text without a new token as it was.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import pairwise

from tasks.models.settings import LearnedTokens
from tasks.vocabulary.original import Original, Symbol, Word
from tasks.vocabulary.values import Choice, NewToken

Pieces = tuple[str, ...]
"""One unknown character, or two neighbours."""


def learn(original: Original, texts: Iterable[str], settings: LearnedTokens) -> Choice:
    """At most `size` tokens, the most saving first; ties go by their text: the same texts, the same tokens."""
    if original.kind == "WordLevel":
        return Choice(tokens=tuple(_whole_words(original, texts, settings)))
    words = original.words(texts)
    learner = _Learner(words, original.vocabulary)
    return Choice(tokens=tuple(learner.tokens(settings)))


def _whole_words(original: Original, texts: Iterable[str], settings: LearnedTokens) -> Iterator[NewToken]:
    """A vocabulary of words gets the words that it does not know."""
    counted = Counter(word for text in texts for word in original.words_of(text) if word not in original.vocabulary)
    unknown = () if original.unknown_id is None else (original.unknown_id,)
    for word, count in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))[: settings.size]:
        if count >= settings.min_count:
            yield NewToken(piece=word, parts=unknown)


class _Learner:
    """The words of a text as they are cut by now, and what each next step would save."""

    def __init__(self, words: Mapping[Word, int], taken: Set[str] | Mapping[str, int]) -> None:
        self._words: list[list[Symbol]] = [list(word) for word in words]
        self._counts = list(words.values())
        self._taken = set(taken)
        self._saved: Counter[Pieces] = Counter()
        self._where: defaultdict[Pieces, set[int]] = defaultdict(set)
        self._heap: list[tuple[int, Pieces]] = []
        for at in range(len(self._words)):
            self._count(at, 1)
        self._heap = [(-saved, pieces) for pieces, saved in self._saved.items()]
        heapq.heapify(self._heap)

    def tokens(self, settings: LearnedTokens) -> Iterator[NewToken]:
        """The next tokens, until there are enough or none is worth it."""
        for _ in range(settings.size):
            pieces = self._best(settings.min_count)
            if pieces is None:
                return
            yield self._join(pieces)

    def _best(self, least: int) -> Pieces | None:
        while self._heap:
            saved, pieces = heapq.heappop(self._heap)
            current = self._saved[pieces]
            if -saved != current:
                if current > 0:
                    heapq.heappush(self._heap, (-current, pieces))
                continue
            if current < least:
                return None
            if "".join(pieces) not in self._taken:
                return pieces
        return None

    def _join(self, pieces: Pieces) -> NewToken:
        """Make the pieces one wherever they stand."""
        piece = "".join(pieces)
        self._taken.add(piece)
        parts: tuple[int, ...] = ()
        changed: set[Pieces] = set()
        for at in sorted(self._where[pieces]):
            self._count(at, -1)
            self._words[at], parts = _joined(self._words[at], pieces)
            changed |= self._count(at, 1)
        for candidate in sorted(changed):
            heapq.heappush(self._heap, (-self._saved[candidate], candidate))
        merges = ((pieces[0], pieces[1]),) if len(pieces) == 2 else ()
        return NewToken(piece=piece, parts=parts, merges=merges)

    def _count(self, at: int, sign: int) -> set[Pieces]:
        """Count or forget what a word would save; the candidates that it has."""
        found = set()
        for pieces, saved in _candidates(self._words[at]):
            self._saved[pieces] += sign * saved * self._counts[at]
            found.add(pieces)
        for pieces in found:
            if sign > 0:
                self._where[pieces].add(at)
            else:
                self._where[pieces].discard(at)
        return found


def _candidates(word: list[Symbol]) -> Iterator[tuple[Pieces, int]]:
    """What could become one token, and how many tokens each place would save."""
    for symbol in word:
        if not symbol.known:
            yield (symbol.piece,), max(1, len(symbol.parts) - 1)
    for left, right in pairwise(word):
        if left.known and right.known:
            yield (left.piece, right.piece), 1


def _joined(word: list[Symbol], pieces: Pieces) -> tuple[list[Symbol], tuple[int, ...]]:
    """The word with the pieces made one, from left to right, and the base's ids of the new token."""
    result: list[Symbol] = []
    parts: tuple[int, ...] = ()
    at = 0
    while at < len(word):
        part = word[at : at + len(pieces)]
        if tuple(symbol.piece for symbol in part) == pieces and (len(pieces) == 2) == all(s.known for s in part):
            parts = tuple(token for symbol in part for token in symbol.parts)
            result.append(Symbol("".join(pieces), parts, known=True))
            at += len(pieces)
        else:
            result.append(word[at])
            at += 1
    return result, parts
