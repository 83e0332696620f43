"""TrainingArguments from our settings: every field that could act behind our back is set here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainingArguments

from tasks.foundation.errors import ConfigError, ResourceError
from tasks.launch.layout import Layout
from tasks.training.values import Cell

NEVER = 10**9
"""More steps than any run has."""
_SUM_IN_ANY_ORDER = 2
"""Ranks up to which a sum of gradients does not depend on its order."""


def training_arguments(cell: Cell, work: Path) -> TrainingArguments:
    """The arguments of one cell, which also meet the other ranks. Nothing is reported, pushed, filtered or saved
    except through our own hooks.

    Raises:
        ResourceError: the accelerator cannot compute in this precision.
        ConfigError: there are not as many ranks as the layout says.
    """
    settings, layout = cell.training, cell.layout
    check_precision(layout, settings.precision)
    arguments = TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=settings.per_device_eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_steps=settings.max_steps or -1,
        num_train_epochs=settings.num_train_epochs,
        learning_rate=float(cell.method["learning_rate"]),
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_ratio,
        weight_decay=float(cell.method["weight_decay"]),
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optim,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        seed=cell.seed,
        data_seed=cell.seed,
        logging_strategy="steps",
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=None,
        eval_strategy="steps" if settings.eval_steps else "no",
        eval_steps=settings.eval_steps or NEVER,
        remove_unused_columns=False,
        label_names=["labels"],
        average_tokens_across_devices=True,
        dataloader_pin_memory=layout.device == "cuda",
        disable_tqdm=True,
        report_to=[],
        **_engine(layout, settings.deterministic),
    )
    if arguments.world_size != layout.ranks:
        raise ConfigError(
            f"{arguments.world_size} ranks were started for a cell of {layout.ranks}",
            where="distributed.ranks_per_node",
            fix="Start it through `tuneline run`, or torchrun with that many processes",
        )
    if layout.engine == "deepspeed":
        _join_deepspeed(layout)
    elif layout.engine == "fsdp2" and settings.precision != "fp32":
        arguments.fsdp_plugin_args["mixed_precision_policy"] = _rounded(settings.precision)
    return arguments


def check_precision(layout: Layout, precision: str) -> None:
    """Nothing falls back to another precision.

    Raises:
        ResourceError: this rank's accelerator does not know bf16.
    """
    if layout.device != "cpu" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ResourceError(
            f"{torch.cuda.get_device_name()} cannot compute in bf16",
            where="training.precision",
            fix="Set training.precision: fp16",
        )


def _engine(layout: Layout, deterministic: bool) -> dict[str, Any]:
    """What the engines differ in."""
    device: dict[str, Any] = {"use_cpu": layout.device == "cpu"}
    if layout.engine == "deepspeed":
        return device | {"deepspeed": copy.deepcopy(layout.deepspeed)}  # "auto" is filled in, in place
    if layout.engine == "fsdp2":
        return device | {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True}}
    return device | {"ddp_find_unused_parameters": deterministic and layout.ranks > _SUM_IN_ANY_ORDER}


def _rounded(precision: str) -> MixedPrecisionPolicy:
    """Compute in 16 bits, add gradients and report the loss in float32; accelerate's own policy rounds all of it."""
    computed = torch.bfloat16 if precision == "bf16" else torch.float16
    return MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32, output_dtype=torch.float32)


def _join_deepspeed(layout: Layout) -> None:
    """Before the model is loaded: ZeRO-3 shares the weights while they are read, and asks how many ranks there are."""
    import deepspeed

    if not distributed.is_initialized():
        raise ConfigError(
            "DeepSpeed needs a launcher, also for one rank",
            where="RANK",
            fix="Start it under torchrun, or `tuneline run`",
        )
    if layout.device == "cpu":  # ranks talk over gloo; kernels of its own for that would be compiled now, for minutes
        deepspeed.ops.__compatible_ops__ = {}
    _refuse_unknown_keys(layout)
    deepspeed.init_distributed()


def _refuse_unknown_keys(layout: Layout) -> None:
    """DeepSpeed itself would refuse them too, but in words of its own and with the model in memory."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    known = fields.keys() | {field.alias for field in fields.values()}
    for key in sorted((layout.deepspeed or {}).get("zero_optimization", {}).keys() - known):
        fix = "Correct or remove it in the file that distributed.strategy names"
        raise ConfigError("is no key that DeepSpeed knows", where=f"zero_optimization.{key}", fix=fix)
