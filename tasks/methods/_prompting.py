"""How a method words the questions of the evaluation, where not as the data section does."""

from __future__ import annotations

from tasks.foundation.values import Value


class Prompting(Value):
    """A hard prompt: examples in front of each question, a template of its own, or both."""

    shots: int = 0
    """Training rows in front of each question."""
    seed: int = 0
    """Which rows these are."""
    template: str | None = None
    """Plain template in the place of the data's, and of the tokenizer's chat template."""
    separator: str | None = None
    """Stands between examples under a plain template."""
