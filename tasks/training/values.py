"""The file contract between the pipeline and the training worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.artifacts.values import Artifact
from tasks.foundation.values import Value
from tasks.launch.layout import Layout
from tasks.methods import INIT_FROM, Candidate, Source, parse_method
from tasks.models.values import BaseModel
from tasks.training.marks import Marks
from tasks.training.settings import TrainingSettings


class Adoption(Value):
    """The checkpoint of a gang of another size that a cell goes on from."""

    work: Path
    """Work folder of the attempt that left it."""
    step: int
    digest: str
    """Of its manifest: with the settings it decides what becomes of it, within rounding."""
    ranks: int
    """World size under which it was made."""


class Cell(Value):
    """One unit of comparison: base model x method x data x seed."""

    label: str
    """Unique within the comparison, for example `lora` or `lora seed 1`."""
    method: dict[str, Any]
    """Resolved settings of the method, with `kind`, `learning_rate`, `weight_decay`."""
    seed: int
    base: BaseModel
    tokens: Artifact
    training: TrainingSettings
    """Resolved: the method's own steps are already in `max_steps`."""
    layout: Layout = Layout()
    sources: dict[str, Source] = Field(default_factory=dict)
    """Earlier results that the method starts from, learns from or composes: a name of the method -> where it lies."""
    experiment: str = ""
    """Name of the experiment: with label and seed it says which work folders hold attempts at the same thing."""
    adopted: Adoption | None = None
    """Where it goes on from instead of starting; such a cell repeats within a tolerance, not bit for bit."""
    fingerprint: str
    """sha256 of everything that decides the trained bytes: the key of the `train` artifact."""

    @property
    def trains(self) -> bool:
        """False for the untuned base."""
        return parse_method(self.method).holds != "nothing"

    @property
    def start(self) -> Source | None:
        """The adapter whose weights training begins with; a whole model to start from is the cell's base itself."""
        start = self.sources.get(INIT_FROM)
        return start if start and start.holds == "adapter" else None


class TrainRequest(Value):
    """request.json: all that the worker knows."""

    cell: Cell
    work: Path
    """Checkpoints, metrics.jsonl, progress.json, failure.json: survives a kill."""
    output: Path
    """Folder that rank 0 fills: `adapter/` or `model/`, and result.json last."""
    identity: dict[str, str]
    """Flattened facts that a checkpoint must share to be resumed: name -> value."""
    attempt: str = ""
    """Names this attempt; once `work/attempt` names another one, this one is over. Empty: nothing fences it."""
    loading_seconds: float = 1800.0
    """How long ranks wait for each other: `distributed.stall_seconds.loading`."""
    seen: Marks = Field(default_factory=dict)
    """Files of base, tokens and sources that the pipeline had hashed; empty has every node hash them itself."""


class TrainResult(Value):
    """result.json. Times in seconds, memory in bytes."""

    steps: int
    train_loss: float
    """Mean over the steps since the last but one logged loss; of the last step alone with `logging_steps: 1`."""
    eval_loss: float | None
    """Loss on the tokenised evaluation rows at the end."""
    best_step: int | None = None
    trainable_parameters: int
    total_parameters: int
    weights_bytes: int
    """Size of the safetensors files that training leaves."""
    weights_digest: str
    """sha256 over the names and bytes of these files: equal for the same cell trained twice."""
    train_tokens: int
    """Non-padding tokens seen."""


class TrainCost(Value):
    """cost.json: what a repetition need not reproduce, kept beside the result and out of its digest."""

    train_seconds: float
    """Of this attempt, loading included, and of the steps of earlier ones that it went on from."""
    step_seconds_median: float
    tokens_per_second: float
    """Non-padding tokens of all ranks over the time that the steps took."""
    peak_memory_bytes: int
    """Accelerator's peak of allocated memory; on CPU the peak resident set of rank 0."""
    resumed_from_step: int | None = None
    resumed_from_world_size: int | None = None
    """Ranks of the attempt that it was taken over from: the weights then repeat within a tolerance, not bit for bit."""
    device: str


class TrainedCell(Value):
    """Artifact `train`, or nothing but the candidate where the method trains nothing."""

    cell: Cell
    candidate: Candidate
    artifact: Artifact | None = None
    result: TrainResult | None = None
    cost: TrainCost | None = None

    @property
    def weights_digest(self) -> str:
        """Digest of what training left; empty for the untuned base."""
        return self.result.weights_digest if self.result else ""
