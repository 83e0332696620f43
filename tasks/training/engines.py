"""Under which engine a cell trains: what a method refuses, and what a rank must set before it imports anything.

Light: experiments are checked with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from tasks.foundation.errors import ConfigError
from tasks.launch.layout import Layout
from tasks.methods import Method
from tasks.models import Quantization
from tasks.training.settings import TrainingSettings

log = logging.getLogger(__name__)

_OF_ACCELERATE = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
"""How the names of its variables begin, which `accelerate launch` sets for its own."""

ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero3", "fsdp2")
"""By the names that `MethodInfo.refuses` and the documentation use; offloading changes none of this."""

_FLAT = "its moments are those of rows and columns, and ranks share flat pieces: it would silently be another optimiser"

OPTIMIZER_REFUSES: Mapping[str, Mapping[str, str]] = {
    "adafactor": dict.fromkeys(("zero1", "zero2", "zero3"), _FLAT)
    | {"fsdp2": "its moments of rows and columns do not know of shared tensors"},
    "paged_adamw_8bit": {"fsdp2": "bitsandbytes' kernels do not know shared tensors"},
}
"""`training.optim` -> engine -> why not."""


def engine_name(layout: Layout) -> str:
    """One of `ENGINES`."""
    return f"zero{layout.zero_stage}" if layout.engine == "deepspeed" else layout.engine


def refuse_engine(
    method: Method, training: TrainingSettings, layout: Layout, quantization: Quantization | None = None
) -> None:
    """What a method, an optimiser or a quantised base cannot do under an engine, before anything is loaded.

    Args:
        quantization: of the base, whoever asked for it.

    Raises:
        ConfigError: with the declared reason and the way out.
    """
    name = engine_name(layout)
    if reason := method.refuses_engine(name):
        left = [engine for engine in ENGINES if not method.refuses_engine(engine)]
        raise ConfigError(
            f"{method.kind} cannot train under {name}: {reason}",
            where=f"methods[{method.label}]",
            allowed=", ".join(left),
            fix=f"Set distributed.strategy: {left[0]}, or take this method out",
        )
    if broken := OPTIMIZER_REFUSES.get(training.optim, {}).get(name):
        raise ConfigError(
            f"{training.optim} cannot train under {name}: {broken}",
            where="training.optim",
            fix="Set training.optim: adamw_torch, or distributed.strategy: ddp",
        )
    if name == "fsdp2" and quantization is not None and quantization.bits == 8:
        raise ConfigError(
            "a base in int8 cannot train under fsdp2: sharing its weights loses their scales",
            where="model.quantization",
            fix="Set model.quantization: nf4, or distributed.strategy: ddp or zero3",
        )
    if layout.engine == "fsdp2" and layout.ranks == 1:
        raise ConfigError(
            "fsdp2 shares a model among ranks, and there is one",
            where="distributed.strategy",
            fix="Set distributed.strategy: ddp, or distributed.ranks_per_node above 1",
        )


def resolve_precision(training: TrainingSettings, layout: Layout) -> TrainingSettings:
    """`precision: auto` made concrete, so that it is part of what the cell is.

    Raises:
        ConfigError: the device cannot compute in the precision that was asked for.
    """
    if training.precision == "fp16" and layout.device == "cpu":
        raise ConfigError(
            "fp16 mixed precision needs an accelerator, and the ranks compute on CPUs",
            where="training.precision",
            allowed="fp32, bf16",
            fix="Set training.precision: fp32",
        )
    if training.precision != "auto":
        return training
    return training.model_copy(update={"precision": "bf16" if layout.device == "cuda" else "fp32"})


def prepare_environment(layout: Layout) -> None:
    """Before torch and DeepSpeed are imported: a rank that computes on the CPU sees no accelerator at all.

    What accelerate would read from the environment goes: it would win over `training.precision` and the engine.
    """
    for name in sorted(name for name in os.environ if name.startswith(_OF_ACCELERATE)):
        log.warning("%s is set in the environment and not heeded: the experiment decides", name)
        del os.environ[name]
    if layout.device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
