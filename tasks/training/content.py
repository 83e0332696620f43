"""What a checkpoint holds beside its manifest, written by all ranks together and read back to the same bits.

- `trainable.safetensors`: every trainable tensor, whole, under its full name; `trainer_state.json`, `scheduler.pt`;
- `method_state.safetensors`: what the method keeps beside them (AdaLoRA's importance);
- `optimizer.pt`, or one file per rank where an engine shares it (`optimizer_<rank>.pt`, DeepSpeed's own folder);
- `rng_state*.pth` and `loss_<rank>.json` of every rank: what was summed since the last logged loss.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.foundation.errors import DivergenceError, IntegrityError
from tasks.foundation.faults import reach
from tasks.training.shards import anywhere, gather, parts_of, scatter, share_again, unlinked_masters

if TYPE_CHECKING:
    from tasks.training.trainer import CellTrainer

TRAINABLE = "trainable.safetensors"
METHOD_STATE = "method_state.safetensors"
TRAINER_STATE = "trainer_state.json"
_DEEPSPEED = "deepspeed"
_SCRIPTS = ("zero_to_fp32.py", "zero_to_torch.py")
"""DeepSpeed adds them to every checkpoint; ours holds no code."""


def write_content(trainer: CellTrainer, staging: Path) -> None:
    """Fill the staged folder, which exists. All ranks must call it.

    Raises:
        DivergenceError: a weight is not finite, on every rank.
    """
    reach("checkpoint.weights")
    save_trainable(trainer, staging / TRAINABLE)
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(staging / TRAINER_STATE))
        state = trainer.method.training_state(trainer.accelerator.unwrap_model(trainer.model))
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, staging / METHOD_STATE)
    reach("checkpoint.optimizer")
    _save_optimizer(trainer, staging)
    reach("checkpoint.rng")
    trainer._save_scaler(str(staging))
    trainer._save_rng_state(str(staging))
    _save_losses(trainer, staging)


def read_content(trainer: CellTrainer, checkpoint: Path) -> None:
    """Weights, optimiser, scheduler and scaler of a verified checkpoint, into a prepared trainer."""
    if trainer.is_deepspeed_enabled:
        _read_deepspeed(trainer, checkpoint)
    else:
        load_trainable(trainer.model, checkpoint / TRAINABLE)
        _read_optimizer(trainer, checkpoint)
    trainer.method.restore_training_state(
        trainer.accelerator.unwrap_model(trainer.model), load_file(checkpoint / METHOD_STATE)
    )
    trainer.lr_scheduler.load_state_dict(torch.load(checkpoint / "scheduler.pt", weights_only=True))
    trainer._load_scaler(str(checkpoint))


def save_trainable(trainer: CellTrainer, path: Path) -> None:
    """Every trainable tensor under its full name, finite or not at all.

    Raises:
        DivergenceError: a weight is NaN or infinite; such a checkpoint must not exist.
    """
    tensors = finite_tensors(trainer, frozen=False)
    if trainer.is_world_process_zero():
        save_file(tensors, path)


def finite_tensors(trainer: CellTrainer, *, frozen: bool) -> dict[str, torch.Tensor]:
    """The whole tensors on rank 0, see `gather`. All ranks must call it.

    Raises:
        DivergenceError: one is not finite; on every rank.
    """
    masters = unlinked_masters(trainer.deepspeed.optimizer) if trainer.is_deepspeed_enabled else None
    tensors = gather(trainer.accelerator.unwrap_model(trainer.model), frozen=frozen, masters=masters)
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if anywhere(bool(broken), trainer.args.device):
        name = broken[0] if broken else "a weight"
        raise DivergenceError(f"{name} is not finite", fix="Lower the learning rate; no checkpoint was kept")
    return tensors


def load_trainable(model: nn.Module, path: Path) -> None:
    """Put the saved tensors back; every trainable one must be there and no other.

    Raises:
        IntegrityError: the names differ from the model's.
    """
    saved = read_trainable(model, path)
    scatter(model, saved)


def read_trainable(model: nn.Module, path: Path) -> Mapping[str, torch.Tensor]:
    """The saved tensors of a model.

    Raises:
        IntegrityError: the names differ from the model's.
    """
    saved: dict[str, torch.Tensor] = load_file(path)
    wanted = {name for name, value in model.named_parameters() if value.requires_grad}
    if saved.keys() != wanted:
        name = sorted(saved.keys() ^ wanted)[0]
        raise IntegrityError(f"{os.fspath(path)} does not fit this method: {name} is in only one of them")
    return saved


def read_losses(trainer: CellTrainer, checkpoint: Path) -> None:
    """Go on summing the loss where the checkpoint stopped, so that the next logged mean is over all its steps."""
    path = checkpoint / f"loss_{trainer.args.process_index}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    trainer._tr_loss += stored["since_logged"]
    trainer._total_loss_scalar = stored["total"]
    trainer._globalstep_last_logged = stored["last_logged"]


def _save_losses(trainer: CellTrainer, staging: Path) -> None:
    losses = {
        "since_logged": trainer._tr_loss.item(),
        "total": trainer._total_loss_scalar,
        "last_logged": trainer._globalstep_last_logged,
    }
    path = staging / f"loss_{trainer.args.process_index}.json"
    path.write_text(json.dumps(losses), encoding="utf-8")


def _save_optimizer(trainer: CellTrainer, staging: Path) -> None:
    first = trainer.is_world_process_zero()
    if trainer.is_deepspeed_enabled:
        trainer.deepspeed.save_checkpoint(
            str(staging), tag=_DEEPSPEED, save_latest=False, exclude_frozen_parameters=True
        )
        for name in _SCRIPTS if first else ():
            (staging / name).unlink(missing_ok=True)
    elif trainer.is_fsdp_enabled:
        torch.save(parts_of(trainer.optimizer), staging / f"optimizer_{trainer.args.process_index}.pt")
    elif first:
        torch.save(trainer.optimizer.state_dict(), staging / "optimizer.pt")
    if first:
        torch.save(trainer.lr_scheduler.state_dict(), staging / "scheduler.pt")


def _read_optimizer(trainer: CellTrainer, checkpoint: Path) -> None:
    name = f"optimizer_{trainer.args.process_index}.pt" if trainer.is_fsdp_enabled else "optimizer.pt"
    trainer.optimizer.load_state_dict(torch.load(checkpoint / name, map_location="cpu", weights_only=True))
    if trainer.is_fsdp_enabled:
        share_again(trainer.optimizer.optimizer)


def _read_deepspeed(trainer: CellTrainer, checkpoint: Path) -> None:
    """Weights and optimiser. DeepSpeed unpickles whatever it finds, so the folder's digests were checked before."""
    path, _ = trainer.deepspeed.load_checkpoint(
        str(checkpoint), tag=_DEEPSPEED, load_module_strict=False, load_lr_scheduler_states=False
    )
    if path is None:
        raise IntegrityError("DeepSpeed does not read its own checkpoint", where=str(checkpoint))
