"""The texts that an extension learns from, and the tokens that a file names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.data.rows import read_rows
from tasks.data.values import Row
from tasks.foundation.digests import digest_file, digest_value
from tasks.foundation.errors import ConfigError, DataError
from tasks.models.settings import VocabularyExtension
from tasks.vocabulary.document import SETTING, TOKENIZER_FILE, Document, vocabulary
from tasks.vocabulary.values import ExtensionJob

_EVERY = 10
"""One text in so many is held out from the rows' training."""


def text_files(settings: VocabularyExtension) -> tuple[Path, ...]:
    """The files of `text`; none where the data's training rows are meant."""
    named = (settings.text,) if isinstance(settings.text, str) else settings.text or ()
    return tuple(map(Path, named))


def read_texts(job: ExtensionJob) -> list[str]:
    """Lines of the files that are not empty, or the training rows, their turns on lines of their own.

    Raises:
        DataError: a file cannot be read or has no text.
    """
    files = text_files(job.settings)
    if not files:
        return [_said(row) for row in read_rows(job.rows)]
    return [line for path in files for line in _lines(path, "text")]


def _said(row: Row) -> str:
    return "\n".join(turn.content for turn in row.turns) if row.turns else row.answer


def read_tokens(settings: VocabularyExtension) -> tuple[str, ...]:
    """The tokens that the experiment or its file names, one per line there; a space in front belongs to a token.

    Raises:
        DataError: the file cannot be read or names none.
    """
    return settings.tokens or tuple(_lines(Path(settings.file), "file") if settings.file else ())


def _lines(path: Path, key: str) -> list[str]:
    where = f"{SETTING}.{key}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        fix = "Check the path (relative to the working directory)"
        raise DataError(f"{path} cannot be read: {error.strerror}", where=where, fix=fix) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}", where=where, fix="Save it as UTF-8") from error
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty", where=where, fix="Name a file with text")
    return [line.removesuffix("\r") for line in lines]


def check_settings(settings: VocabularyExtension) -> None:
    """What its files show before anything is computed.

    Raises:
        DataError: a text or the list of tokens cannot be read or is empty.
        ConfigError: the other tokenizer is none.
    """
    read_tokens(settings)
    for path in text_files(settings):
        _lines(path, "text")
    if settings.tokenizer is not None and not (Path(settings.tokenizer) / TOKENIZER_FILE).is_file():
        raise ConfigError(
            f"{settings.tokenizer} has no {TOKENIZER_FILE}",
            where=f"{SETTING}.tokenizer",
            fix="Name the folder of a fast tokenizer",
        )


def check_tokens(settings: VocabularyExtension, document: Document) -> None:
    """Not every token that is named stands in the base's vocabulary, as far as that shows without cutting a text.

    Raises:
        ConfigError: all of them do.
    """
    named, known = read_tokens(settings), vocabulary(document)
    if named and all(token in known for token in named):
        raise every_token_exists(len(named))


def every_token_exists(count: int) -> ConfigError:
    """The refusal of an extension by nothing."""
    what = f"the base has every token that is named ({count})"
    return ConfigError(what, where=SETTING, fix="Name others, or leave it out")


def content_digest(job: ExtensionJob) -> str:
    """sha256 of what the settings' files hold, wherever they lie."""
    settings = job.settings
    return digest_value(
        {
            "tokens": read_tokens(settings),
            "texts": [digest_file(path) for path in text_files(settings)] or job.rows_digest,
            "tokenizer": digest_file(Path(settings.tokenizer) / TOKENIZER_FILE) if settings.tokenizer else "",
        }
    )


def split(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts to train on and texts to measure on: every tenth one; fewer than ten serve both."""
    if len(texts) < _EVERY:
        return list(texts), list(texts)
    return [text for at, text in enumerate(texts) if at % _EVERY], list(texts[::_EVERY])
