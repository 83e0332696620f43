"""Tokenise prepared rows as tuneline does, and adopt them: `… tokenise_tuneline FOLDER BASE`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tasks.artifacts import Artifact, ArtifactStore
from tasks.data import DataSettings
from tasks.data.prepare import prepare, prepare_key, read_prepared
from tasks.data.tokenize import tokenize, tokenize_key
from tasks.data.values import PreparedData
from tasks.models import BaseModel, ModelSettings, resolve_base
from tasks.models.loading import load_tokenizer


def main(folder: str, base: str) -> None:
    settings = DataSettings(train=f"{folder}/train.csv", eval=f"{folder}/eval.csv", max_seq_length=512)
    store = ArtifactStore(Path(folder) / "artifacts")
    prepared = read_prepared(store.make("prepare", prepare_key(settings), lambda into: prepare(settings, into)))
    resolved = resolve_base(ModelSettings(name_or_path=base))
    load_tokenizer(resolved)  # imports are not measured; the step loads it again
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        step(store, prepared, resolved, settings)
        seconds.append(time.perf_counter() - started)
    report = prepared.report
    print(json.dumps({"seconds": seconds[0], "again": seconds[1], "rows": report.train_rows + report.eval_rows}))


def step(store: ArtifactStore, prepared: PreparedData, base: BaseModel, settings: DataSettings) -> Artifact:
    """What the step `tokenize` does: key, look, make."""
    key = tokenize_key(prepared, base, settings)
    return store.make("tokenize", key, lambda into: tokenize(prepared, base, settings, into))


if __name__ == "__main__":
    main(*sys.argv[1:])
