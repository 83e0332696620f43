"""TrainingArguments from our settings: every field that could act behind our back is set here."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from tasks.foundation.errors import ResourceError
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell

NEVER = 10**9
"""More steps than any run has."""


def training_arguments(cell: Cell, work: Path) -> TrainingArguments:
    """The arguments of one cell. Nothing is reported, pushed, filtered or saved except through our own hooks."""
    settings = cell.training
    precision = resolve_precision(settings)
    return TrainingArguments(
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
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
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
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to=[],
    )


def resolve_precision(settings: TrainingSettings) -> str:
    """`auto` made concrete for this machine.

    Raises:
        ResourceError: the device cannot compute in the precision that was asked for.
    """
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if settings.precision == "auto":
        return "bf16" if bf16 else "fp32"
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise ResourceError(
            "fp16 mixed precision needs an accelerator and none is here", where="training.precision", fix="Set fp32"
        )
    return settings.precision
