"""What registration is asked for, and what it leaves."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tasks.data.settings import DataSettings
from tasks.foundation.values import Value
from tasks.methods import Candidate, Source
from tasks.registry.record import Record


class Example(Value):
    """One question of the evaluation and what was answered: input example and proof of the package."""

    prompt: str
    """The user's message."""
    system: str = ""
    """The system message before it, where there is one."""
    answer: str
    """The text that the evaluation saw; the package must give it before it is registered."""


class RegisterRequest(Value):
    """The winner, and everything that leads back from it. It names files and digests; it holds no model."""

    model_name: str
    alias: str
    candidate: Candidate
    label: str
    """The winner's row in the comparison."""
    run_id: str
    """MLflow run of the winning cell: the package becomes its artifact."""
    comparison: Path | None = None
    """The comparison as Markdown; it goes into the model card."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Scores of the winner."""
    rows_digest: str
    """The evaluation rows behind the scores."""
    data_digest: str
    """Digest of all training and evaluation rows."""
    fingerprint: str
    """The cell's fingerprint."""
    sources: dict[str, Source] = Field(default_factory=dict)
    """Earlier results that the winner goes on from, by the method's names for them."""
    code_commit: str
    """`CodeState.label`: the code that made it."""
    prefect_url: str = ""
    data: DataSettings
    """How a prompt becomes token ids."""
    max_new_tokens: int
    """The evaluation's limit; the served model's default."""
    example: Example | None = None
    """See `find_example`; None where no question was answered."""
    record: Record | None = None
    """What its gate will read; without one it is registered, and passes none."""


class RegisteredVersion(Value):
    """One version of a registered model."""

    name: str
    version: int
    alias: str
    uri: str
    """`models:/<name>/<version>`: what stays when the alias moves on."""
    run_id: str
    digest: str
    """sha256 over everything that serves: weights, tokenizer, code, requirements, signature."""
    cached: bool = False
    """True when the version was there before, and only the alias was looked after."""


class CodeState(Value):
    """The project's own source, as exactly as it can be named."""

    version: str
    """Of the installed package."""
    code_digest: str
    """sha256 of what the source does (comments and docstrings left out)."""
    commit: str = ""
    """git commit; empty where the source is not a git checkout."""
    dirty: bool = False
    """Whether tracked or new source files differ from the commit."""
    diff_digest: str = ""
    """sha256 of these differences; empty where there are none."""

    @property
    def label(self) -> str:
        """One word for a tag: the commit (and that it was changed), or version and code digest."""
        if not self.commit:
            return f"{self.version}+{self.code_digest[:12]}"
        return f"{self.commit}-dirty-{self.diff_digest[:12]}" if self.dirty else self.commit
