"""What several metrics must know about text: is it Chinese, and what is one word of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_IDEOGRAPHS = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = rf"{_IDEOGRAPHS}\u3040-\u30ff"
"""Body of a character class: ideographs and kana, the scripts written without spaces between words."""

_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def mostly_chinese(texts: Iterable[str]) -> bool:
    """True when more than half of all letters are Chinese ideographs. No letters at all: False."""
    letters = [character for text in texts for character in text if character.isalpha()]
    return 2 * sum(map(bool, map(_IDEOGRAPH.match, letters))) > len(letters)


def words(text: str) -> list[str]:
    """Lower-cased words: runs of letters and digits, and every Chinese or Japanese character by itself.

    On plain ASCII these are the tokens of rouge-score's own tokenizer without stemming; that one drops every other
    letter, so a Chinese text would have no tokens at all.
    """
    return _WORD.findall(text.lower())


def one_space(text: str) -> str:
    """Runs of whitespace (as `str.split` sees it) become one space, both ends are stripped; nothing else changes."""
    return " ".join(text.split())
