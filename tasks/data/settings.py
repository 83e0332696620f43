"""Data: what is read, how rows become text, how text becomes tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from tasks.data.plain_template import PlainTemplate
from tasks.foundation.values import Settings

_DEFAULT_TEMPLATE = "{prompt}\n{completion}"


def _usable(template: str) -> str:
    PlainTemplate.parse(template)
    return template


Columns = dict[str, str]
"""Our field name -> the file's column, for example {prompt: mr, completion: ref}."""


class DataSource(Settings):
    """One part of a mixture."""

    path: str
    """A file, a glob, a hub id (with `revision`), or `embedded:<task>` (tasks: `tuneline init --help`)."""
    weight: float | None = Field(default=None, gt=0)
    """Share of this source relative to the others: rows are drawn so that the shares hold; no row is repeated. When no
    source has a weight, every row of every source is used; when some have one, the others count as 1."""
    format: str | None = None
    """Name of a format; recognised from the rows when absent."""
    columns: Columns | None = None
    """Overrides `data.columns` for this source."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of a hub data set, 40 hex digits."""
    split: str | None = None
    """Split of a hub data set."""


class DataSettings(Settings):
    """Section `data`."""

    train: str | tuple[DataSource, ...]
    """Training rows: a file, a glob, a hub id, or a list of sources."""
    eval: str | tuple[DataSource, ...] | None = None
    """Evaluation rows; without it `eval_fraction` of the training rows is held out."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training rows held out by content hash when `eval` is absent."""
    format: str | None = None
    """Name of a format for all sources; recognised from the rows when absent."""
    columns: Columns | None = None
    """Our field -> the file's column, where the file's names are its own."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of a hub data set given as a plain string."""
    max_train_rows: int | None = Field(default=None, gt=0)
    """At most so many training rows, chosen by content hash."""
    max_eval_rows: int | None = Field(default=None, gt=0)
    """At most so many evaluation rows, chosen by content hash."""
    max_bad_fraction: float = Field(default=0.0, ge=0, le=1)
    """More bad rows than this share fail the step; they are never silently dropped."""
    max_row_characters: int = Field(default=1_000_000, gt=0)
    """A row longer than this is bad (reason `too_long`)."""
    on_leak: Literal["error", "drop", "report"] = "error"
    """What to do with evaluation rows that are also training rows: fail, drop them from training, or only report."""
    max_seq_length: int = Field(default=1024, gt=1)
    """Tokens of a row at most, the end token included."""
    truncation: Literal["drop", "truncate", "error"] = "drop"
    """Rows over `max_seq_length`: drop them, cut the prompt from the left (never the answer), or fail. Counted."""
    template: Annotated[str, AfterValidator(_usable)] = _DEFAULT_TEMPLATE
    """Plain template where there is no chat template: `{prompt}` and `{completion}` once each, `{system}` if wanted.
    What follows `{completion}` stands between the turns of a conversation, after the end token, and is not learned."""
    templates: tuple[Annotated[str, AfterValidator(_usable)], ...] = ()
    """Several plain templates in the place of `template`, so that a model learns the task and not one wording of it.
    They word the training rows; evaluation and generation use the first."""
    template_choice: Literal["all", "draw"] = "all"
    """Each training row in all of `templates` (epochs get so many times longer), or in one, by `seed` and content."""
    use_chat_template: bool = True
    """False: use `template` or `templates` even where the tokenizer has a chat template."""
    train_on_prompt: bool = False
    """True: the loss counts the prompt's tokens too, not only the answer's."""
    packing: bool = False
    """Fill sequences up to `max_seq_length` with several rows that cannot see each other."""
    seed: int = 0
    """Seed of the mixture's draw, and of the templates'."""

    @model_validator(mode="before")
    @classmethod
    def _first_template(cls, data: Any) -> Any:
        """`template` is the first of `templates`, wherever one is asked for."""
        several = data.get("templates") if isinstance(data, Mapping) else None
        if not isinstance(several, list | tuple) or not several or "template" in data:
            return data
        return {**data, "template": several[0]}

    @model_validator(mode="after")
    def _templates_are_used(self) -> DataSettings:
        if self.templates and self.template != self.templates[0]:
            raise ValueError("template and templates are both set. Put the one into the other, in the first place")
        if len(set(self.templates)) < len(self.templates):
            raise ValueError("templates holds one template twice. Keep one")
        if self.template_choice == "draw" and len(self.templates) < 2:
            raise ValueError("template_choice: draw needs several data.templates to draw from")
        return self
