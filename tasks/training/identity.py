"""What decides the trained bytes, and what a checkpoint must share with a run to be resumed."""

from __future__ import annotations

from typing import Any

from tasks.artifacts.values import Artifact
from tasks.foundation.digests import canonical_json, code_digest, digest_value, library_versions
from tasks.launch.layout import Layout
from tasks.methods import method_code
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
    "tasks.methods._targets",
    "tasks.models.loading",
    "tasks.training.adoption",
    "tasks.training.arguments",
    "tasks.training.content",
    "tasks.training.determinism",
    "tasks.training.engines",
    "tasks.training.order",
    "tasks.training.session",
    "tasks.training.shards",
    "tasks.training.stopping",
    "tasks.training.trainer",
    "tasks.training.worker",
)
"""Where a batch, a start, a rate, a step or an end is decided: another code there may give other bytes."""


def cell_facts(
    base: BaseModel,
    tokens: Artifact,
    method: dict[str, Any],
    training: TrainingSettings,
    seed_and_layout: tuple[int, Layout],
) -> dict[str, str]:
    """Flat facts, name -> canonical JSON: the same facts, the same trained bytes.

    `seed_and_layout`: the cell's seed and its gang. Intervals of saving do not count, names neither.
    """
    seed, layout = seed_and_layout
    facts: dict[str, Any] = {
        "base.digest": base.digest,
        "base.dtype": base.dtype,
        "base.attn_implementation": base.attn_implementation,
        "tokens.digest": tokens.digest,
        "seed": seed,
        "ranks": layout.ranks,
        "nodes": layout.nodes,
        "engine": layout.engine,
        "deepspeed": layout.deepspeed,
        "device": layout.device,
    }
    facts |= {f"method.{name}": value for name, value in method.items() if name != "name"}
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
