"""The name of an evaluation: everything that decides its bytes, and nothing else."""

from __future__ import annotations

from typing import Any

from tasks.evaluation.probe import probe_digest
from tasks.evaluation.values import EvaluationJob
from tasks.foundation.digests import code_digest, digest_value, library_versions
from tasks.methods import Candidate, Method, method_code, parse_method
from tasks.metrics import metric_code, metrics_named

_TRAINING_ONLY = frozenset({"name", "learning_rate", "weight_decay", "max_steps", "init_from"})
"""Settings of every method that decide how it trained; what came of it is in the digest of the weights."""

_CODE = (
    "tasks.data.dialects",
    "tasks.data.fitting",
    "tasks.data.plain_template",
    "tasks.data.rows",
    "tasks.data.segments",
    "tasks.data.selection",
    "tasks.data.templates",
    "tasks.evaluation",
    "tasks.methods.loading",
    "tasks.models.loading",
)
_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes")
_RENDERING = {"template", "use_chat_template", "max_seq_length", "truncation", "train_on_prompt"}


def evaluation_key(job: EvaluationJob, weights_digest: str) -> str:
    """sha256 that names the artifact of this evaluation.

    The untuned base has one key per base, data and settings, whatever the experiment is called and however its methods
    train. The number of shown samples is not part of it.

    Args:
        job: the evaluation.
        weights_digest: sha256 of the candidate's adapter or model files; empty for the untuned base.

    Raises:
        ConfigError: an unknown metric.
        DataError: the probe text cannot be read.
    """
    method = parse_method(job.candidate.method)
    names = (*job.settings.metrics, *(job.settings.size_metrics if method.sizes() else ()))
    libraries = {name for metric in metrics_named(names) for name in metric.libraries}
    return digest_value(
        {
            "step": "evaluate",
            "candidate": _candidate_part(job, weights_digest),
            "prepared": job.prepared.artifact.digest,
            "tokens": job.tokens.artifact.digest,
            "rendering": job.data.model_dump(mode="json", include=_RENDERING),
            "settings": job.settings.model_dump(mode="json", exclude={"samples", "metrics", "size_metrics", "probe"}),
            "metrics": sorted(set(job.settings.metrics)),
            "sizes": sorted(set(job.settings.size_metrics)) if method.sizes() else None,
            "adapter": _adapter_part(job, method),
            "probe": probe_digest(job.settings.probe),
            "code": code_digest(*_CODE, *_loading_code(job, method), *metric_code(names)),
            "libraries": library_versions(*_LIBRARIES, *sorted(libraries)),
        }
    )


def _loading_code(job: EvaluationJob, method: Method) -> tuple[str, ...]:
    """An adapter is put on its base by its method, which gives it other sizes and explains it too."""
    asked = job.candidate.holds == "adapter" or method.tells
    return method_code(job.candidate.method) if asked else ()


def _adapter_part(job: EvaluationJob, method: Method) -> dict[str, Any] | None:
    """What was merged, where it is loaded once more."""
    if job.adapter is None or not method.tells:
        return None
    return {"weights": job.adapter_digest, "method": _method_part(job.adapter)}


def _candidate_part(job: EvaluationJob, weights_digest: str) -> dict[str, Any]:
    base, candidate = job.candidate.base, job.candidate
    part: dict[str, Any] = {
        "base": base.digest,
        "tokenizer": base.tokenizer_digest,
        "dtype": base.dtype,
        "attn_implementation": base.attn_implementation,
        "quantization": base.quantization.model_dump(mode="json") if base.quantization else None,
        "holds": candidate.holds,
        "weights": weights_digest,
    }
    if candidate.holds == "adapter":
        part["method"] = _method_part(candidate)
    prompting = parse_method(candidate.method).prompting()
    return part if prompting is None else part | {"prompting": prompting.model_dump(mode="json")}


def _method_part(candidate: Candidate) -> dict[str, Any]:
    return {name: value for name, value in candidate.method.items() if name not in _TRAINING_ONLY}
