"""What the extension of a vocabulary is made from, and what it leaves."""

from __future__ import annotations

from pathlib import Path

from tasks.artifacts.values import Artifact
from tasks.foundation.values import Value
from tasks.models.settings import VocabularyExtension
from tasks.models.values import BaseModel


class NewToken(Value):
    """A token that the base gets."""

    piece: str
    """As the vocabulary holds it: `Ġcafe` where bytes have letters, `▁cafe` where spaces do."""
    parts: tuple[int, ...]
    """The base's own ids that it stands for; its row begins at the mean of theirs (of all rows where it has none)."""
    merges: tuple[tuple[str, str], ...] = ()
    """BPE: the pairs that become it. No merge makes a token that the base had, so its own texts stay as they were."""
    whole: bool = False
    """Found in the text as it stands, before the text is cut into words."""
    asked_for: bool = True
    """False for a step of BPE on the way to a longer token."""


class Choice(Value):
    """The new tokens in the order of their ids, and what became of the others."""

    tokens: tuple[NewToken, ...]
    existing: int = 0
    """Left out, since the base has them."""
    unreachable: int = 0
    """Left out, since the base's tokenizer would never arrive at them."""


class ExtensionJob(Value):
    """Everything that the step needs."""

    base: BaseModel
    settings: VocabularyExtension
    rows: Path
    """train.jsonl of the prepared data: the texts where `settings.text` names none."""
    rows_digest: str
    """The data's digest."""
    device: str
    """`cpu` or `accelerator`: where the rows train decides their last bits."""


class VocabularyReport(Value):
    """Counts and losses of the extension; logged whole, and as flat `vocabulary/…` metrics."""

    new_tokens: int
    origin: str
    """Digest of the base as it was found."""
    steps_of_merging: int
    """Of the new tokens those that nobody asked for: BPE builds a token from two shorter ones."""
    existing_tokens: int
    """Asked for, and left out since the base has them."""
    unreachable_tokens: int
    """Asked for, and left out since the base's tokenizer would never arrive at them."""
    first_id: int
    """Of the first new token; the others follow."""
    reused_rows: int
    """Rows that the checkpoint had beyond its tokens, and that new tokens took."""
    vocab_size: int
    """Rows of the extended embedding."""
    texts: int
    """Texts that the rows learnt from."""
    characters: int
    """Of all texts, the held out ones too."""
    tokens_per_character_before: float
    tokens_per_character_after: float
    learning_rate: float
    """Peak rate that was used; 0 where no step was asked for."""
    trained_tokens: int
    """Tokens that the rows' training read."""
    held_out_texts: int
    """Every tenth text, which the rows did not learn from; every text where there are fewer than ten."""
    loss_mean_start: float
    """Nats per token of the held out texts, the new rows at the mean of their pieces."""
    loss_trained: float
    """The same after training."""
    nats_per_character_base: float
    """Loss of the base with its own tokenizer: per character it compares with the extended one's."""
    nats_per_character_mean_start: float
    nats_per_character_trained: float


class ExtendedBase(Value):
    """The base that everything after goes on from; without a report the one that was found."""

    base: BaseModel
    origin: str = ""
    """Digest of the base as it was found."""
    artifact: Artifact | None = None
    """`vocabulary`: a model folder with report.json and new_tokens.jsonl."""
    report: VocabularyReport | None = None
