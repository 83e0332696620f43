"""The exam that every candidate of a comparison sits: the same rows, the same settings."""

from __future__ import annotations

from tasks.data.settings import DataSettings
from tasks.data.values import PreparedData, TokenizedData
from tasks.evaluation.settings import EvaluationSettings
from tasks.evaluation.values import EvaluationJob
from tasks.foundation.values import Value
from tasks.methods import Candidate


class Exam(Value):
    """Everything of an evaluation but who is evaluated."""

    prepared: PreparedData
    tokens: TokenizedData
    settings: EvaluationSettings
    data: DataSettings

    def job(self, candidate: Candidate, adapter: Candidate | None = None, adapter_digest: str = "") -> EvaluationJob:
        """The exam for one candidate; `adapter` is what it was before it was merged."""
        return EvaluationJob(
            candidate=candidate,
            prepared=self.prepared,
            tokens=self.tokens,
            settings=self.settings,
            data=self.data,
            adapter=adapter,
            adapter_digest=adapter_digest,
        )
