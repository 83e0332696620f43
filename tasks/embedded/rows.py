"""Rows of the four embedded tasks.

records-en    {"prompt": "food[ Thai], name[ Wild Table], type[ pub]", "completion": "Visit Wild Table, a pub. It …"}
sentiment-zh  {"prompt": "我们去了红叶花园。菜好极了，汤太烂。", "completion": "中评"}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.embedded.chinese import CHINESE
from tasks.embedded.draws import Draws
from tasks.embedded.english import ENGLISH
from tasks.embedded.language import Language, ReviewStyle, Split
from tasks.embedded.names import names_of
from tasks.foundation.errors import ConfigError

Row = dict[str, str]

_LANGUAGES: dict[str, Language] = {language.code: language for language in (ENGLISH, CHINESE)}
_ROWS: dict[Split, int] = {"train": 2000, "dev": 200, "test": 200}


def task_rows(task: str, split: Split) -> Iterator[Row]:
    """The rows of a task, `prompt` and `completion`, the same ones every time and no two alike.

    Raises:
        ConfigError: no such task or split.
    """
    if task not in _WRITERS:
        raise ConfigError(f"no embedded task {task!r}", allowed=", ".join(_WRITERS))
    if split not in _ROWS:
        raise ConfigError(f"no split {split!r} of embedded:{task}", allowed=", ".join(_ROWS))
    return _distinct(task, split)


def _distinct(task: str, split: Split) -> Iterator[Row]:
    kind, code = task.split("-")
    language, write = _LANGUAGES[code], _WRITERS[task]
    names, draws = names_of(language, split), Draws(f"{kind}/{code}/{split}")
    seen: set[str] = set()
    while len(seen) < _ROWS[split]:
        row, content = write(language, draws.pick(names), draws)
        if content not in seen:
            seen.add(content)
            yield row


def _record(language: Language, name: str, draws: Draws) -> tuple[Row, str]:
    """A record in a drawn order of its facts; the text has one order, so the content is the text."""
    style = language.records
    kind = draws.pick(style.kinds)
    facts, sentences = [(style.name_key, name), (style.kind_key, kind)], [style.opening.format(name=name, kind=kind)]
    for slot in style.slots:
        if draws.chance(slot.share):
            value = draws.pick(tuple(slot.sentences))
            facts.append((slot.key, value))
            sentences.append(slot.sentences[value])
    prompt = ", ".join(f"{key}[{language.gap}{value}]" for key, value in draws.shuffled(facts))
    text = language.gap.join(sentences)
    return {"prompt": prompt, "completion": text}, text


def _sentiment(language: Language, name: str, draws: Draws) -> tuple[Row, str]:
    label, review = review_of(language, name, draws)
    return {"prompt": review, "completion": label}, review


def review_of(language: Language, name: str, draws: Draws) -> tuple[str, str]:
    """A drawn label and a review that deserves it: two judgements, both good, both bad, or one of each."""
    style = language.reviews
    label = draws.pick((style.positive, style.negative, style.mixed))
    judgements = [
        style.judgement.format(subject=subject, tone=draws.pick(tone))
        for subject, tone in zip(draws.shuffled(style.subjects), _tones(style, label, draws), strict=False)
    ]
    opening = draws.pick(style.openings).format(name=name)
    return label, language.gap.join((opening, style.pair.format(first=judgements[0], second=judgements[1])))


def _tones(style: ReviewStyle, label: str, draws: Draws) -> list[tuple[str, ...]]:
    if label == style.mixed:
        return draws.shuffled((style.good, style.bad))
    return [style.good if label == style.positive else style.bad] * 2


_WRITERS: dict[str, Callable[[Language, str, Draws], tuple[Row, str]]] = {
    "records-en": _record,
    "records-zh": _record,
    "sentiment-en": _sentiment,
    "sentiment-zh": _sentiment,
}
TASKS = tuple(_WRITERS)
