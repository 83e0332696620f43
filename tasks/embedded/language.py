"""What a language must say so that rows and pretraining text can be made in it."""

from __future__ import annotations

from typing import Literal

from tasks.foundation.values import Value

Split = Literal["train", "dev", "test"]

Words = tuple[str, ...]


class Slot(Value):
    """One fact of a record and the sentence that tells it."""

    key: str
    share: float
    """Share of the records that hold it."""
    sentences: dict[str, str]
    """Value -> sentence. A copied slot repeats the value in it; a mapping slot says it in other words."""


class RecordStyle(Value):
    """How a record is written, and which text it asks for."""

    name_key: str
    kind_key: str
    kinds: Words
    opening: str
    """Sentence with `{name}` and `{kind}`."""
    slots: tuple[Slot, ...]
    """In the order of the text."""


class ReviewStyle(Value):
    """How a review is written, and its label words."""

    openings: Words
    """Sentences with `{name}`."""
    subjects: Words
    good: Words
    bad: Words
    judgement: str
    """Half a sentence with `{subject}` and `{tone}`."""
    pair: str
    """Sentence with `{first}` and `{second}`."""
    positive: str
    negative: str
    mixed: str


class Topic(Value):
    """Notes of pretraining text: keys with values, and several ways to tell each."""

    values: dict[str, Words]
    """Key -> values to choose from; a key without values takes a name."""
    sentences: dict[str, Words]
    """`key` or `key=value` -> sentences with `{value}`; the order is that of the text."""


class CorpusStyle(Value):
    """Words of the generic pretraining text.

    A layout is cut at `|`: what stands before it is given, what follows is learnt, since it can be known. Learning to
    guess drawn facts would only add noise.
    """

    notes: Words
    """Layouts with `{notes}` and `{text}`."""
    note: Words
    """Layouts of one note with `{key}` and `{value}`."""
    separators: Words
    topics: tuple[Topic, ...]
    questions: str
    """Layout with `{notes}` and `{answers}`."""
    answer: Words
    """Layouts of one question and answer with `{key}` and `{value}`."""
    review: Words
    """Layouts with `{review}` and `{label}`."""
    echo: Words
    """Layouts with `{thing}`, twice."""
    prose: Words
    """Sentences with `{person}`, `{place}`, `{thing}`, `{quality}`, `{time}`, `{act}`."""
    parts: dict[str, Words]
    """Part of a prose sentence -> words to choose from."""


class Language(Value):
    """Everything that differs between English and Chinese."""

    code: Literal["en", "zh"]
    first_names: Words
    """First halves of the names of places; names are held out as whole pairs."""
    second_names: Words
    gap: str
    """What stands between words and between sentences."""
    records: RecordStyle
    reviews: ReviewStyle
    corpus: CorpusStyle
