"""Generic text to pretrain on: to copy, to tell notes in many ways, to answer, and the words of both languages.

It holds the wording of the tasks among others, never a task's own combination of opening, wording and order: tuning
has to find that, but need not teach the model to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tasks.embedded.chinese import CHINESE
from tasks.embedded.draws import Draws
from tasks.embedded.english import ENGLISH
from tasks.embedded.language import Language, Split, Topic
from tasks.embedded.names import names_of
from tasks.embedded.rows import review_of
from tasks.foundation.values import Value

_CHINESE_SHARE = 0.4
_PROBE_PARAGRAPHS = 150


class Document(Value):
    """A text in two parts."""

    given: str
    """Not learnt, only read."""
    learnt: str


def documents(count: int) -> Iterator[Document]:
    """Pretraining documents, English and Chinese mixed; the names of dev and test rows never occur."""
    draws = Draws("corpus")
    for _ in range(count):
        language = CHINESE if draws.chance(_CHINESE_SHARE) else ENGLISH
        given, _, learnt = _document(language, draws).rpartition("|")
        yield Document(given=given, learnt=learnt)


def probe_text(split: Split = "test") -> str:
    """Generic prose in both languages, one paragraph a line, to measure what tuning made the model forget.

    The sentences are of the kind that pretraining saw; the paragraphs are other ones for each split.
    """
    draws = Draws(f"probe/{split}")
    paragraphs = (_prose(CHINESE if draws.chance(_CHINESE_SHARE) else ENGLISH, draws) for _ in range(_PROBE_PARAGRAPHS))
    return "".join(f"{paragraph}\n" for paragraph in paragraphs)


def _document(language: Language, draws: Draws) -> str:
    kinds = [kind for kind, weight in _KINDS for _ in range(weight)]
    return draws.pick(kinds)(language, draws)


def _echo(language: Language, draws: Draws) -> str:
    words = [draws.pick(names_of(language, "train")), *(draws.pick(_words(language)) for _ in range(draws.below(4)))]
    thing = (language.gap or "、").join(draws.shuffled(words))
    return draws.pick(language.corpus.echo).format(thing=thing)


def _words(language: Language) -> tuple[str, ...]:
    return tuple(value for topic in language.corpus.topics for values in topic.values.values() for value in values)


def _prose(language: Language, draws: Draws) -> str:
    return language.gap.join(_sentence(language, draws) for _ in range(2 + draws.below(5)))


def _sentence(language: Language, draws: Draws) -> str:
    text = draws.pick(language.corpus.prose)
    for part, words in language.corpus.parts.items():
        while "{" + part + "}" in text:
            text = text.replace("{" + part + "}", draws.pick(words), 1)
    return text


def _notes(language: Language, draws: Draws) -> str:
    topic = draws.pick(language.corpus.topics)
    facts = _facts(topic, language, draws)
    text = language.gap.join(_tell(topic, key, value, draws) for key, value in facts)
    return draws.pick(language.corpus.notes).format(notes=_written(language, facts, draws), text=text)


def _facts(topic: Topic, language: Language, draws: Draws) -> list[tuple[str, str]]:
    """Some keys of the topic with drawn values, in the order of the topic."""
    names = names_of(language, "train")
    kept = set(draws.shuffled(tuple(topic.values))[: 2 + draws.below(len(topic.values) - 1)])
    return [(key, draws.pick(values or names)) for key, values in topic.values.items() if key in kept]


def _tell(topic: Topic, key: str, value: str, draws: Draws) -> str:
    sentences = topic.sentences.get(f"{key}={value}") or topic.sentences[key]
    return draws.pick(sentences).format(value=value)


def _written(language: Language, facts: Sequence[tuple[str, str]], draws: Draws) -> str:
    note, separator = draws.pick(language.corpus.note), draws.pick(language.corpus.separators)
    return separator.join(note.format(key=key, value=value) for key, value in draws.shuffled(facts))


def _questions(language: Language, draws: Draws) -> str:
    """Every fact is asked for once, in another order."""
    facts = _facts(draws.pick(language.corpus.topics), language, draws)
    answer = draws.pick(language.corpus.answer)
    answers = language.gap.join(answer.format(key=key, value=value) for key, value in draws.shuffled(facts))
    return language.corpus.questions.format(notes=_written(language, facts, draws), answers=answers)


def _review(language: Language, draws: Draws) -> str:
    label, review = review_of(language, draws.pick(names_of(language, "train")), draws)
    return draws.pick(language.corpus.review).format(review=review, label=label)


_KINDS: tuple[tuple[Callable[[Language, Draws], str], int], ...] = (
    (_echo, 8),
    (_prose, 12),
    (_notes, 56),
    (_questions, 6),
    (_review, 18),
)
"""Kinds of documents and their weights."""
