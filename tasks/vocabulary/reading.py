"""The artifact of an extension: its key, and what is read back from it. Without torch."""

from __future__ import annotations

from tasks.artifacts import Artifact
from tasks.data.values import PreparedData
from tasks.foundation.digests import code_digest, digest_value, library_versions
from tasks.launch.slots import accelerators
from tasks.models import BaseModel, ModelSettings, resolve_base
from tasks.vocabulary.document import read_document
from tasks.vocabulary.texts import check_settings, content_digest
from tasks.vocabulary.values import ExtendedBase, ExtensionJob, VocabularyReport

REPORT_FILE = "report.json"
TOKENS_FILE = "new_tokens.jsonl"
_ELSEWHERE = {"tokens", "file", "tokenizer", "text"}
"""Settings that count by what they hold, wherever it lies."""


def extension_job(base: BaseModel, prepared: PreparedData, settings: ModelSettings) -> ExtensionJob | None:
    """What the step needs; None where nobody asked for more tokens.

    The files are looked at here, before a process is started for them.

    Raises:
        ConfigError: the base's tokenizer cannot be extended, or the other one is none.
        DataError: a text or the list of tokens cannot be read or is empty.
    """
    if settings.extend_vocabulary is None:
        return None
    check_settings(settings.extend_vocabulary)
    read_document(base.path, extends=True)
    return ExtensionJob(
        base=base,
        settings=settings.extend_vocabulary,
        rows=prepared.artifact.path / "train.jsonl",
        rows_digest=prepared.report.digest,
        device="accelerator" if accelerators() else "cpu",
    )


def vocabulary_key(job: ExtensionJob) -> str:
    """sha256 of everything that decides the extended base."""
    return digest_value(
        {
            "base": [job.base.digest, job.base.attn_implementation],
            "settings": job.settings.model_dump(mode="json", exclude=_ELSEWHERE),
            "content": content_digest(job),
            "device": job.device,
            "code": code_digest("tasks.vocabulary", "tasks.models.loading", "tasks.models.facts"),
            "libraries": library_versions("safetensors", "tokenizers", "torch", "transformers"),
        }
    )


def read_extended(artifact: Artifact, settings: ModelSettings) -> ExtendedBase:
    """The extended base with its report; its facts and digests are those of its own files."""
    report = VocabularyReport.model_validate_json((artifact.path / REPORT_FILE).read_bytes())
    base = resolve_base(settings, artifact.path).model_copy(update={"new_tokens": report.new_tokens})
    return ExtendedBase(base=base, origin=report.origin, artifact=artifact, report=report)
