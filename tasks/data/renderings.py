"""Which texts each training row becomes: one, or with several templates one of each or one that is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tasks.data.settings import DataSettings
from tasks.data.templates import Encoded, Renderer, chats
from tasks.data.values import Row
from tasks.foundation.errors import ConfigError


class Rendering(NamedTuple):
    """One row in one template."""

    id: str
    """The row's id, `<id>/2` in the second template that it is rendered with, and so on."""
    row: Row
    template: str
    encoded: Encoded


class Renderings:
    """Renders training rows with every template, or each with one drawn by seed and content.

    Args:
        tokenizer: a transformers tokenizer.
        settings: `templates`, `template_choice` and `seed` are read, beside what `Renderer` reads.

    Raises:
        ConfigError: several templates, and the tokenizer's chat template would have none of them used.
        ModelError: see `Renderer`.
    """

    def __init__(self, tokenizer: Any, settings: DataSettings) -> None:
        self._settings = settings
        self._templates = settings.templates or (settings.template,)
        if len(self._templates) > 1 and chats(tokenizer, settings):
            raise ConfigError(
                f"the tokenizer's chat template renders the rows: none of the {len(self._templates)} would be used",
                where="data.templates",
                fix="Set data.use_chat_template: false, or remove data.templates",
            )
        self._renderers = [
            Renderer(tokenizer, settings.model_copy(update={"template": template})) for template in self._templates
        ]

    def of(self, rows: Sequence[Row]) -> Iterator[Rendering]:
        """Row by row in their order, in the order of the templates; raw text, which no template changes, once."""
        chosen = [self._chosen(row) for row in rows]
        found = [
            iter(renderer.encode([row for row, own in zip(rows, chosen, strict=True) if number in own]))
            for number, renderer in enumerate(self._renderers)
        ]
        for row, own in zip(rows, chosen, strict=True):
            for place, number in enumerate(own):
                name = row.id if place == 0 else f"{row.id}/{place + 1}"
                yield Rendering(name, row, self._templates[number], next(found[number]))

    def _chosen(self, row: Row) -> Sequence[int]:
        """Places of the templates that this row is rendered with."""
        every = range(len(self._templates))
        if not row.turns:
            return every[:1]
        return [drawn(row, len(every), self._settings.seed)] if self._settings.template_choice == "draw" else every


def drawn(row: Row, count: int, seed: int) -> int:
    """A number below `count` by the hash of seed and content: a reordered file draws the same."""
    digest = hashlib.sha256(f"template:{seed}:{row.id}".encode()).digest()
    return int.from_bytes(digest[:8]) % count
