"""What decides the trained bytes, and what a checkpoint must share with a run to be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tasks.artifacts.values import Artifact
from tasks.foundation.digests import canonical_json, code_digest, digest_value, library_versions
from tasks.launch.layout import Layout
from tasks.methods import Source, method_code, without_references
from tasks.models.values import BaseModel
from tasks.training.settings import TrainingSettings

_WITHOUT_EFFECT_ON_BYTES = {
    "seeds",
    "save_steps",
    "save_total_limit",
    "auto_micro_batch",
    "divergence_factor",
    "divergence_patience",
}
_RESOLVED = {"learning_rate", "weight_decay"}
"""Stand among the method's facts with the value that is used, whoever set it."""
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors")
_CODE = (
    "tasks.data.collate",
    "tasks.models.loading",
    "tasks.training.adoption",
    "tasks.training.arguments",
    "tasks.training.content",
    "tasks.training.determinism",
    "tasks.training.engines",
    "tasks.training.groups",
    "tasks.training.noise",
    "tasks.training.order",
    "tasks.training.session",
    "tasks.training.shards",
    "tasks.training.stopping",
    "tasks.training.trainer",
    "tasks.training.worker",
)
"""Where a batch, a start, a rate, a step or an end is decided: another code there may give other bytes."""


class Beside(NamedTuple):
    """What decides the bytes beside base, rows and settings."""

    seed: int
    layout: Layout
    sources: Mapping[str, Source] = {}
    """By the name of the setting that names each, `.0`, `.1`, … behind it where that is a list."""


def cell_facts(
    base: BaseModel,
    tokens: Artifact,
    method: dict[str, Any],
    training: TrainingSettings,
    beside: Beside,
) -> dict[str, str]:
    """Flat facts, name -> canonical JSON: the same facts, the same trained bytes.

    Intervals of saving do not count, names neither, and of an earlier result its bytes, not where it lies.
    """
    seed, layout, sources = beside
    facts: dict[str, Any] = {
        "base.digest": base.digest,
        "base.dtype": base.dtype,
        "base.attn_implementation": base.attn_implementation,
        "base.quantization": base.quantization.model_dump(mode="json") if base.quantization else None,
        "tokens.digest": tokens.digest,
        "seed": seed,
        "ranks": layout.ranks,
        "nodes": layout.nodes,
        "engine": layout.engine,
        "deepspeed": layout.deepspeed,
        "device": layout.device,
    }
    settings_of_method = without_references(method, sources)
    facts |= {f"method.{name}": value for name, value in settings_of_method.items() if name != "name"}
    facts |= {f"source.{name}": source.digest for name, source in sources.items()}
    epochs = {"num_train_epochs"} if training.max_steps else set()  # the steps decide
    settings = training.model_dump(mode="json", exclude=_WITHOUT_EFFECT_ON_BYTES | _RESOLVED | epochs)
    facts |= {f"training.{name}": value for name, value in settings.items()}
    engine = ("deepspeed",) if layout.engine == "deepspeed" else ()
    facts |= {f"library.{name}": version for name, version in library_versions(*_LIBRARIES, *engine).items()}
    facts["code"] = code_digest(*_CODE, *method_code(method))
    return {name: canonical_json(value) for name, value in facts.items()}


def fingerprint(facts: dict[str, str]) -> str:
    """The key of the cell's `train` artifact."""
    return digest_value(facts)
