"""The record of an evaluation, laid beside the version that it is about."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.artifacts import write_durably
from tasks.foundation.digests import canonical_json, digest_text
from tasks.registry.intact import RECORDS
from tasks.registry.registered import RegisteredModel
from tasks.registry.server import RECORD_TAG, Registry, StoredVersion
from tasks.registry.values import RegisterRequest


def attach_record(request: RegisterRequest, registry: Registry, stored: StoredVersion, package_digest: str) -> None:
    """Lay the request's record beside the version, which its tag then names; an equal one is left as it is.

    The file comes before the tag: a tag without its file would be a version that nobody can judge.
    """
    if request.record is None:
        return
    record = request.record.model_copy(update={"package_digest": package_digest})
    text = canonical_json(record) + "\n"
    digest = digest_text(text)
    model = RegisteredModel(registry, request.model_name)
    version = model.version(stored.version)
    if version.tags.get(RECORD_TAG) == digest:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{digest[:12]}.json"
        write_durably(path, text)
        model.attach(version, path, RECORDS)
    model.tag(version.version, {RECORD_TAG: digest})
