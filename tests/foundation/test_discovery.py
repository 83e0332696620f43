"""Extend by file: what a package's modules define is found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.foundation.discovery import discover, modules_of

BASE = """
from abc import ABC, abstractmethod
class Base(ABC):
    @abstractmethod
    def run(self): ...
class Halfway(Base):
    pass
class Ready(Base):
    def run(self): ...
"""

FILES = {
    "__init__.py": "",
    "_base.py": BASE,
    "beta.py": "from toys._base import Ready\nclass Beta(Ready): pass\nclass Alpha(Ready): pass\nSecondName = Beta\n",
    "alpha.py": "from toys._base import Base, Ready\nfrom toys.beta import Beta\nclass Zeta(Ready): pass\n"
    "class _Hidden(Ready): pass\nclass Unrelated: pass\nclass Unfinished(Base): pass\nthing = Zeta()\n",
}


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `toys`; nothing of it is left afterwards."""
    package = tmp_path / "toys"
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    modules_of.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


def names() -> list[str]:
    from toys._base import Base  # type: ignore[import-not-found]

    return [thing.__name__ for thing in discover("toys", Base)]


def test_concrete_public_classes_are_found_once_in_the_order_of_modules_and_names(toys: Path) -> None:
    assert names() == ["Zeta", "Alpha", "Beta"]


def test_private_modules_belong_to_the_package_itself(toys: Path) -> None:
    (toys / "_private.py").write_text("from toys._base import Ready\nclass Secret(Ready): pass\n")

    assert modules_of("toys") == ("toys.alpha", "toys.beta")
    assert "Secret" not in names()


def test_a_new_file_is_found_without_being_listed_anywhere(toys: Path) -> None:
    (toys / "gamma.py").write_text("from toys._base import Ready\nclass Gamma(Ready): pass\n")

    assert names() == ["Zeta", "Alpha", "Beta", "Gamma"]
