"""Scores of one candidate on the held-out rows."""

from __future__ import annotations

from pydantic import Field

from tasks.artifacts.values import Artifact
from tasks.data.settings import DataSettings
from tasks.data.values import PreparedData, TokenizedData
from tasks.evaluation.settings import EvaluationSettings
from tasks.foundation.values import Value
from tasks.methods import Candidate


class EvaluationJob(Value):
    """Everything that an evaluation needs: it can be started in any process."""

    candidate: Candidate
    prepared: PreparedData
    tokens: TokenizedData
    settings: EvaluationSettings
    data: DataSettings
    adapter: Candidate | None = None
    """What the candidate was before it was merged: of a merged model no size can be had and no part be explained."""
    adapter_digest: str = ""
    """sha256 of its weights."""


class ShotCount(Value):
    """The examples of a few-shot evaluation."""

    asked: int
    """In front of each question, where they fit."""
    dropped: int
    """Left out over all questions, since the model's context has no room for them."""
    short_prompts: int
    """Questions with fewer examples than asked."""
    rows: tuple[str, ...]
    """Ids of the training rows, in the order in which they stand."""


class Scores(Value):
    """scores.json: aggregate values; predictions.jsonl holds them per example."""

    metrics: dict[str, float]
    """Metric name -> value, for example {"loss": 1.1, "perplexity": 3.0, "bleu": 31.2, "rouge1": .5}."""
    signatures: dict[str, str] = Field(default_factory=dict)
    """Metric -> the exact variant, where a library names it, for example sacrebleu's `nrefs:var|case:mixed|…`."""
    probe_loss: float | None = None
    """Cross-entropy per token on the probe text, in nats."""
    rows: int
    """Evaluation rows, one likelihood each."""
    prompts: int
    """Distinct prompts, each answered once; their rows are references of one another."""
    cut_prompts: int = 0
    """Prompts that lost their left end because prompt + virtual tokens + answer exceed the model's context."""
    shots: ShotCount | None = None
    """None where no examples stand in front of the questions."""
    rows_digest: str
    """sha256 over the ids of the rows: two scores compare only where it is equal."""


class SizeScores(Value):
    """One line of sizes.json: the same candidate, smaller."""

    size: str
    """The method's name for it, for example `drop 2`."""
    metrics: dict[str, float]
    """Of `evaluation.size_metrics`."""


class EvaluationCost(Value):
    """cost.json: what a repetition need not reproduce."""

    seconds: float
    """From the loading of the model to the last score."""


class RowScore(Value):
    """One row in predictions.jsonl. `loss_sum` in nats over `tokens`; both None when no metric needs likelihoods."""

    id: str
    loss_sum: float | None = None
    tokens: int | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """Metric -> this row's score, for metrics that need likelihoods."""


class Prediction(Value):
    """A line of predictions.jsonl: one distinct prompt, or one text without a prompt."""

    id: str
    """sha256 of the prompt; of the row where there is no prompt."""
    prompt: str
    references: tuple[str, ...]
    prediction: str | None = None
    """Greedy answer, stripped; None when no metric needs one."""
    label: str | None = None
    chosen: str | None = None
    """The most likely label; None when no metric needs one."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Metric -> this prompt's score, for metrics that need an answer or a label."""
    rows: tuple[RowScore, ...]


class Sample(Value):
    """One prompt with its answers, for a side by side look."""

    id: str
    prompt: str
    references: tuple[str, ...]
    prediction: str


class EvaluatedCell(Value):
    """Artifact `evaluate`: scores.json, predictions.jsonl, cost.json; sizes.json and explain.json where there are."""

    artifact: Artifact
    scores: Scores
    cost: EvaluationCost | None = None
    samples: tuple[Sample, ...] = ()
    sizes: tuple[SizeScores, ...] = ()
    """Largest first; empty where the method has but one."""
    explanation: dict[str, float] = Field(default_factory=dict)
    """What the method says of its result: name -> number."""
