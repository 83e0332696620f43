"""transformers.Trainer with our order of rows, our checkpoints and our refusals. Everything else is the Trainer's."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from tasks.foundation.errors import DivergenceError, IntegrityError
from tasks.methods import Method
from tasks.training.checkpoints import Checkpoints
from tasks.training.order import RowOrder
from tasks.training.stopping import best_step

TRAINABLE = "trainable.safetensors"


class CellTrainer(Trainer):  # type: ignore[misc]
    """Trains one cell.

    - the order of rows is a function of seed and epoch (`RowOrder`);
    - a checkpoint holds every trainable tensor under its full name (soft prompts with their encoder included),
      optimiser, scheduler, RNG of each rank and the trainer's state, and is committed with a manifest;
    - a loss or a gradient norm that is not finite raises DivergenceError before any weight is touched.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        method: Method,
        rows: RowSets,
        checkpoints: Checkpoints,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows.train,
            eval_dataset=rows.evaluation,
            data_collator=rows.collate,
        )
        self._method = method
        self._rows = rows
        self._checkpoints = checkpoints
        self._earlier_tokens = 0
        self._token_count = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.control: TrainerControl
        self.keep_best = False
        self.save_limit = 1

    def total_tokens(self) -> int:
        """Non-padding tokens of all ranks since step 0, earlier attempts included. All ranks must call it."""
        count = self._token_count.clone()
        if distributed.is_initialized():
            distributed.all_reduce(count)
        return self._earlier_tokens + int(count.item())

    # --- data -----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> RowOrder:
        group = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        group = group if self._rows.group_by_length else 0
        return RowOrder(self._rows.lengths, group, self.args.seed, self._current_epoch)

    def _current_epoch(self) -> int:
        per_step = self.args.train_batch_size * self.args.world_size
        batches = -(-len(self._rows.lengths) // per_step)
        updates = max(-(-batches // self.args.gradient_accumulation_steps), 1)
        return int(self.state.global_step // updates)

    # --- steps ----------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        groups = self._method.parameter_groups(self.model, self.args.learning_rate, self.args.weight_decay)
        if groups is not None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer: torch.optim.Optimizer = kind(groups, **options)
        return super().create_optimizer(model)

    def training_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        mask = inputs.get("attention_mask")
        self._token_count += mask.sum() if mask is not None else inputs["input_ids"].numel()
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._diverged("loss", loss, self.state.global_step + 1)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.args.fp16 and not torch.isfinite(torch.as_tensor(norm)):
            self._diverged("gradient norm", norm, self.state.global_step + 1)
        return norm

    def _diverged(self, what: str, value: Any, step: int) -> None:
        raise DivergenceError(
            f"the {what} became {float(value)} at step {step}",
            where=self._method.label,
            fix=f"Lower the learning rate ({self.args.learning_rate:g}); no result was kept",
        )

    # --- evaluation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """True cross-entropy per answer token over all evaluation rows, in nats; each rank takes every n-th row.

        Raises:
            DivergenceError: it is not finite.
        """
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        rows = range(self.args.process_index, len(self._rows.evaluation), self.args.world_size)
        shard = Subset(self._rows.evaluation, rows)
        self.model.eval()
        for batch in DataLoader(
            shard,
            batch_size=self.args.eval_batch_size,
            collate_fn=self._rows.collate,
            generator=torch.Generator(),
        ):
            inputs = self._prepare_inputs(batch)
            with self.accelerator.autocast():  # also where no training step has prepared the model for it
                total += cross_entropy_sum(self.model, inputs)
        self.model.train()
        if distributed.is_initialized():
            distributed.all_reduce(total)
        metrics = {"eval_loss": (total[0] / total[1]).item()}
        if not math.isfinite(metrics["eval_loss"]):
            self._diverged("evaluation loss", metrics["eval_loss"], self.state.global_step)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        step = self.state.global_step
        self.state.num_input_tokens_seen = self.total_tokens()
        self.store_flos()  # sums over all ranks, so all of them must call it
        if self.is_world_process_zero():
            staging = self._checkpoints.staging(step)
            save_trainable(self.model, staging / TRAINABLE)
            self.state.save_to_json(str(staging / "trainer_state.json"))
        self._barrier()
        staging = self._checkpoints.folder / f".step-{step:08d}.staging"
        self._save_optimizer_and_scheduler(str(staging))
        self._save_scaler(str(staging))
        self._save_rng_state(str(staging))
        self._barrier()
        if self.is_world_process_zero():
            self._checkpoints.commit(step)
            best = best_step(self.state) if self.keep_best else None
            self._checkpoints.retain(self.save_limit, keep=() if best is None else (best,))
        self._barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_trainable(self.model, folder / TRAINABLE)
        self._earlier_tokens = TrainerState.load_from_json(str(folder / "trainer_state.json")).num_input_tokens_seen

    def _barrier(self) -> None:
        if distributed.is_initialized():
            distributed.barrier()


class RowSets:
    """The tokenised rows and how they become batches."""

    def __init__(
        self, train: Dataset[Any], evaluation: Dataset[Any], lengths: Sequence[int], collate: Any, group_by_length: bool
    ) -> None:
        self.train = train
        self.evaluation = evaluation
        self.lengths = lengths
        self.collate = collate
        self.group_by_length = group_by_length


def cross_entropy_sum(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[sum of the cross-entropy over answer tokens in nats, number of answer tokens], float64.

    Computed from the logits, since some models add penalties to `.loss`. Soft prompts put extra positions in front of
    the logits, so they are aligned from the right.
    """
    labels = inputs["labels"][:, 1:]
    features = {name: value for name, value in inputs.items() if name != "labels"}
    logits = model(**features).logits[:, -labels.shape[1] - 1 : -1]
    loss = nn.functional.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100, reduction="sum"
    )
    return torch.stack([loss.double(), (labels != -100).sum().double()])


def save_trainable(model: nn.Module, path: Path) -> None:
    """Every trainable tensor under its full name, finite or not at all.

    Raises:
        DivergenceError: a weight is NaN or infinite; such a checkpoint must not exist.
    """
    tensors = {name: value.detach().cpu() for name, value in model.named_parameters() if value.requires_grad}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DivergenceError(f"{name} is not finite", fix="Lower the learning rate; no checkpoint was kept")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def load_trainable(model: nn.Module, path: Path) -> None:
    """Put the saved tensors back; every trainable one must be there and no other.

    Raises:
        IntegrityError: the names differ from the model's.
    """
    saved = load_file(path)
    wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if saved.keys() != wanted.keys():
        name = sorted(saved.keys() ^ wanted.keys())[0]
        raise IntegrityError(f"{os.fspath(path)} does not fit this method: {name} is in only one of them")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])
