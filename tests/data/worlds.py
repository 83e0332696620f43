"""Small worlds for the data tests: files, settings, tokenizers and a base model's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.artifacts import Artifact, ArtifactStore
from tasks.data.prepare import prepare, prepare_key, read_prepared
from tasks.data.settings import DataSettings
from tasks.data.tokenize import read_tokenized, tokenize, tokenize_key
from tasks.data.values import PreparedData, Row, TokenizedData, Turn
from tasks.models.values import BaseModel, BaseModelFacts

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BOS, EOS, WORD = "<s>", "</s>", "question"
TEXTS = ("name[Aromi], food[Chinese]", "Aromi serves Chinese food.", "the user and the assistant\n", "你好，世界。")


def write_jsonl(path: Path, records: Iterable[object]) -> str:
    """One JSON value per line; returns the path as settings name it."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    """Distinct prompt and completion rows."""
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(start, start + count)]


def chat(*contents: str, system: str = "") -> tuple[Turn, ...]:
    """User and assistant in turn."""
    lead = (Turn(role="system", content=system),) if system else ()
    roles = ("user", "assistant")
    return (*lead, *(Turn(role=roles[i % 2], content=text) for i, text in enumerate(contents)))


def row(*contents: str, system: str = "") -> Row:
    """A row with these turns."""
    return Row(id="-".join(contents), turns=chat(*contents, system=system), source="rows.jsonl:1")


def prepared(settings: DataSettings, root: Path) -> PreparedData:
    """Run the data step through the store, as the product does."""
    return read_prepared(prepared_artifact(settings, root))


def prepared_artifact(settings: DataSettings, root: Path) -> Artifact:
    return ArtifactStore(root).make("prepare", prepare_key(settings), lambda folder: _prepare(settings, folder))


def _prepare(settings: DataSettings, folder: Path) -> None:
    prepare(settings, folder)


def tokenized(settings: DataSettings, base: BaseModel, root: Path) -> TokenizedData:
    """Run both data steps through the store."""
    rows = prepared(settings, root)

    def build(folder: Path) -> None:
        tokenize(rows, base, settings, folder)

    return read_tokenized(ArtifactStore(root).make("tokenize", tokenize_key(rows, base, settings), build))


def make_tokenizer(chat_template: str | None = None, *, bos: bool = True, eos: str | None = EOS) -> Any:
    """A byte-level BPE trained on a handful of texts, in transformers' clothes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [BOS, EOS, "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=eos, chat_template=chat_template
    )


def make_sparse_tokenizer() -> Any:
    """Three tokens, one of them with an id far behind the others."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({BOS: 0, EOS: 1, WORD: 700}, unk_token=WORD))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=BOS, eos_token=EOS, unk_token=WORD)


def base_model(tokenizer: Any, folder: Path, *, vocab_size: int = 320, context: int = 512) -> BaseModel:
    """The value of a base model whose folder holds this tokenizer and no weights."""
    tokenizer.save_pretrained(folder)
    facts = BaseModelFacts(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=vocab_size,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        parameters=1,
        dtype="float32",
    )
    return BaseModel(name="tiny", path=folder, digest="d" * 64, tokenizer_digest="t" * 64, facts=facts)
