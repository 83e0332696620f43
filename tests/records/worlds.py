"""A cell with everything that its steps leave, made by hand, and the run to which it is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.artifacts import Artifact
from tasks.data.values import DataReport, PreparedData, TokenizedData, TokenReport
from tasks.evaluation.values import EvaluatedCell, Sample, Scores
from tasks.merging.values import MergedCell, MergeProof
from tasks.methods import Candidate, Source
from tasks.models.values import BaseModel, BaseModelFacts
from tasks.tracking import RunRef, TrackingSettings, create_run
from tasks.tracking.memory import MemoryRun, MemorySink
from tasks.tracking.shipper import Shipper
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainCost, TrainedCell, TrainResult

LORA: dict[str, Any] = {"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 0.01, "weight_decay": 0.0}
NONE: dict[str, Any] = {"kind": "none"}
RUN = "0123456789abcdef" * 2
EARLIER = Source(reference=RUN, path=Path("/far/away"), digest="5" * 64, holds="adapter", run_id=RUN)
"""What an earlier run left."""


class World:
    """A spool, and folders in the place of artifacts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sink = MemorySink()

    def run(self, name: str = "lora") -> RunRef:
        return create_run(self.folder / "spool", name=name, experiment="stories")

    def arrived(self, name: str = "lora") -> MemoryRun:
        """The run of that name once everything was sent."""
        with Shipper(TrackingSettings(flush_seconds=120), self.folder / "spool", self.folder, sink=self.sink):
            pass
        return self.sink.named(name)

    def artifact(self, step: str, *, cached: bool = False, made_by: str = "", **files: str) -> Artifact:
        path = self.folder / step
        path.mkdir(exist_ok=True)
        for name, text in files.items():
            (path / name.replace("__", ".")).write_text(text)
        return Artifact(step=step, key="k" * 64, path=path, digest="d" * 64, cached=cached, made_by=made_by)

    def base(self) -> BaseModel:
        facts = BaseModelFacts(
            model_type="llama",
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=100,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            parameters=9000,
            dtype="float32",
        )
        return BaseModel(name="tiny", path=self.folder, digest="b" * 64, tokenizer_digest="t" * 64, facts=facts)

    def cell(self, method: dict[str, Any], seed: int = 3) -> Cell:
        return Cell(
            label=str(method["kind"]),
            method=method,
            seed=seed,
            base=self.base(),
            tokens=self.artifact("tokenize"),
            training=TrainingSettings(max_steps=20, save_steps=5),
            fingerprint="f" * 64,
        )

    def prepared(self) -> PreparedData:
        report = DataReport(
            read_rows=12,
            train_rows=9,
            eval_rows=2,
            bad_rows=1,
            bad_by_reason={"empty field": 1},
            duplicate_rows=0,
            leaked_rows=0,
            unused_rows=0,
            rows_by_source={"a.csv": 7, "b.csv": 5},
            prompt_characters_median=10.5,
            answer_characters_median=4.0,
            digest="e" * 64,
        )
        return PreparedData(artifact=self.artifact("prepare", report__json="{}"), report=report)

    def tokens(self, **facts: Any) -> TokenizedData:
        report = TokenReport(
            train_sequences=9,
            train_tokens=200,
            answer_tokens=80,
            eval_sequences=2,
            eval_tokens=40,
            dropped_rows=0,
            truncated_rows=1,
            length_median=20.0,
            length_p95=30.0,
            length_max=31,
            packed_rows=0,
            template="plain",
        )
        artifact = self.artifact("tokenize", report__json="{}", sample__md="# Sample", **facts)
        return TokenizedData(artifact=artifact, report=report)

    def trained(self, cell: Cell, *, cached: bool = False, made_by: str = "") -> TrainedCell:
        artifact = self.artifact("train", cached=cached, made_by=made_by)
        weights = artifact.path / "adapter"
        weights.mkdir(exist_ok=True)
        (weights / "adapter_config.json").write_text("{}")
        (weights / "adapter_model.safetensors").write_bytes(b"w" * 16)
        return TrainedCell(
            cell=cell,
            artifact=artifact,
            candidate=Candidate(label=cell.label, base=cell.base, method=cell.method, weights=weights, holds="adapter"),
            result=TrainResult(
                steps=20,
                train_loss=0.5,
                eval_loss=0.75,
                trainable_parameters=128,
                total_parameters=9128,
                weights_bytes=16,
                weights_digest="w" * 64,
                train_tokens=4000,
            ),
            cost=TrainCost(
                train_seconds=8.0,
                step_seconds_median=0.25,
                tokens_per_second=500.0,
                peak_memory_bytes=1 << 20,
                device="cpu",
            ),
        )

    def untrained(self, cell: Cell) -> TrainedCell:
        candidate = Candidate(label=cell.label, base=cell.base, method=cell.method, holds="nothing")
        return TrainedCell(cell=cell, candidate=candidate)

    def merged(self, trained: TrainedCell, *, cached: bool = False) -> MergedCell:
        proof = MergeProof(
            rows=4,
            tokens=60,
            largest_difference=1e-6,
            tolerance=1e-4,
            error=1e-7,
            adapter_effect=0.25,
            same_argmax=1.0,
            dtype="float32",
        )
        artifact = self.artifact("merge", cached=cached)
        return MergedCell(outcome="merged", candidate=trained.candidate, proof=proof, artifact=artifact)

    def evaluated(
        self, probe_loss: float | None = None, *, cached: bool = False, made_by: str = "", **told: Any
    ) -> EvaluatedCell:
        scores = Scores(
            metrics={"loss": 1.25, "bleu": 30.0}, probe_loss=probe_loss, rows=2, prompts=1, rows_digest="r" * 64
        )
        artifact = self.artifact("evaluate", cached=cached, made_by=made_by, predictions__jsonl="{}\n")
        sample = Sample(id="s", prompt="name[Aromi]", references=("Aromi is a pub.", "A pub."), prediction="Aromi.")
        return EvaluatedCell(artifact=artifact, scores=scores, samples=(sample,), **told)
