"""tokenizer.json as the extension reads and writes it: plain JSON, so that all that is not new stays as it was.

{"added_tokens": [{"id": 0, "content": "<s>", …}], "normalizer": …, "pre_tokenizer": …, "decoder": …,
 "model": {"type": "BPE", "vocab": {"a": 3, "b": 4, "ab": 5}, "merges": [["a", "b"]], …}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.foundation.errors import ConfigError
from tasks.models.weights import read_json
from tasks.vocabulary.values import NewToken

TOKENIZER_FILE = "tokenizer.json"
SETTING = "model.extend_vocabulary"
KINDS = ("BPE", "Unigram", "WordLevel")
_LEAST = 10.0
"""How far below the lowest score of a Unigram model an added token's own entry lies: text never chooses it."""

Document = dict[str, Any]


def read_document(folder: Path, *, extends: bool) -> Document:
    """The tokenizer.json of a folder; `extends`: it must be of a kind that can be given tokens.

    Raises:
        ConfigError: there is none, or it is of another kind.
        ModelError: it is broken.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {TOKENIZER_FILE}: only a fast tokenizer can be read here",
            where=SETTING,
            fix="Write it once with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    document = read_json(path)
    kind = kind_of(document)
    if extends and kind not in KINDS:
        raise ConfigError(f"a {kind} tokenizer cannot be extended", where=SETTING, allowed=", ".join(KINDS))
    if extends and document["model"].get("continuing_subword_prefix"):
        what = f"a BPE tokenizer that marks what goes on with {document['model']['continuing_subword_prefix']!r}"
        raise ConfigError(f"{what} cannot be extended", where=SETTING, allowed="BPE without such a prefix")
    return document


def kind_of(document: Mapping[str, Any]) -> str:
    """`BPE`, `Unigram`, `WordLevel`, `WordPiece`; old files do not say it of BPE."""
    model = document.get("model", {})
    return str(model.get("type") or ("BPE" if "merges" in model else "unknown"))


def vocabulary(document: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> id, added tokens included."""
    pieces = document["model"].get("vocab", {})
    own = pieces if isinstance(pieces, dict) else {piece: at for at, (piece, _) in enumerate(pieces)}
    return dict(own) | {token["content"]: token["id"] for token in document.get("added_tokens", [])}


def added_ids(document: Mapping[str, Any]) -> frozenset[int]:
    """Ids of tokens that are found in the text before it is cut into words: special ones above all."""
    return frozenset(token["id"] for token in document.get("added_tokens", []))


def first_free(document: Mapping[str, Any]) -> int:
    """The id of the first new token: behind every id that is taken."""
    pieces = document["model"].get("vocab", {})
    listed = len(pieces) if isinstance(pieces, list) else 0
    return max([listed - 1, *vocabulary(document).values()]) + 1


def is_metaspace(document: Mapping[str, Any]) -> bool:
    """True where a piece writes its space as ▁ (SentencePiece)."""
    return "▁" in json.dumps(
        [document.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False
    )


def is_byte_level(document: Mapping[str, Any]) -> bool:
    """True where a piece is written in letters that stand for bytes (GPT-2)."""
    return '"ByteLevel"' in json.dumps([document.get("pre_tokenizer"), document.get("decoder")])


def extended(document: Document, tokens: Sequence[NewToken]) -> Document:
    """The document with new tokens, whose ids follow `first_free` in order.

    The added tokens that the base has get an entry in the model's own vocabulary too: readers number added tokens that
    the model does not know from its number of entries on, and would give them the ids of the new ones.
    """
    first = first_free(document)
    ids = {token.piece: first + at for at, token in enumerate(tokens)}
    model = dict(document["model"])
    if kind_of(document) == "Unigram":
        model["vocab"] = _scored(document, tokens)
    else:
        model["vocab"] = dict(sorted((vocabulary(document) | ids).items(), key=lambda entry: entry[1]))
    if kind_of(document) == "BPE":
        old = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
        model["merges"] = [*old, *([*pair] for token in tokens for pair in token.merges)]
    added = [*document.get("added_tokens", []), *_whole(tokens, ids)]
    return document | {"model": model, "added_tokens": added}


def _scored(document: Document, tokens: Sequence[NewToken]) -> list[list[Any]]:
    """A new piece scores as the mean of its parts: always better than all of them together, since scores are negative.

    One that stood for an unknown character gets the lowest score there is: it has no rival.
    """
    pieces = [list(entry) for entry in document["model"]["vocab"]]
    unknown, lowest = document["model"].get("unk_id"), min((score for _, score in pieces), default=0.0)
    for piece, at in sorted(vocabulary(document).items(), key=lambda entry: entry[1]):
        if at >= len(pieces):
            if at > len(pieces):
                raise ConfigError(
                    f"the tokenizer has no token {len(pieces)}", where=SETTING, allowed="ids without a gap"
                )
            pieces.append([piece, lowest - _LEAST])
    scores = [score for _, score in pieces]
    for token in tokens:
        known = [scores[part] for part in token.parts if part != unknown]
        pieces.append([token.piece, max(lowest, sum(known) / len(known)) if known else lowest])
    return pieces


def _whole(tokens: Sequence[NewToken], ids: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return ({"id": ids[token.piece], "content": token.piece} | flags for token in tokens if token.whole)


def write_tokenizer(
    base: Path, names: Sequence[str], document: Document, tokens: Sequence[NewToken], folder: Path
) -> None:
    """The base's tokenizer files with the extended vocabulary; files that hold the old one only are left out."""
    first = first_free(read_json(base / TOKENIZER_FILE))
    whole = _whole(tokens, {token.piece: first + at for at, token in enumerate(tokens)})
    listed = {str(entry.pop("id")): entry for entry in whole}
    for name in names:
        if name == "tokenizer_config.json" and listed:
            config = read_json(base / name)
            if "added_tokens_decoder" in config:
                config["added_tokens_decoder"] |= listed
            _write(folder / name, config)
        elif name not in _OLD_VOCABULARIES:
            (folder / name).write_bytes((base / name).read_bytes())
    _write(folder / TOKENIZER_FILE, document)


_OLD_VOCABULARIES = (TOKENIZER_FILE, "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
