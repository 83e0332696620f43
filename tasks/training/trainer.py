"""transformers.Trainer with our order of rows, our checkpoints and our refusals. Everything else is the Trainer's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from tasks.data.collate import is_filler
from tasks.foundation.errors import DivergenceError
from tasks.foundation.faults import poisoned, reach
from tasks.methods import Method, Window
from tasks.training.checkpoints import Checkpoints
from tasks.training.content import TRAINER_STATE, read_content, read_losses, write_content
from tasks.training.groups import Rates, parameter_groups
from tasks.training.memory import computing_on
from tasks.training.order import NOBODY, RowOrder, Rows
from tasks.training.pulse import Phase, Pulse
from tasks.training.settings import GroupSettings
from tasks.training.shards import barrier, share_on_cpu
from tasks.training.stopping import best_step


class RowSets:
    """The tokenised rows and how they become batches."""

    def __init__(
        self, train: Dataset[Any], evaluation: Dataset[Any], lengths: Sequence[int], collate: Any, group_by_length: bool
    ) -> None:
        self.train = Rows(train)
        self.evaluation = Rows(evaluation)
        self.lengths = lengths
        self.collate = collate
        self.group_by_length = group_by_length


class CellTrainer(Trainer):  # type: ignore[misc]
    """Trains one cell.

    - the order of rows is a function of seed and epoch (`RowOrder`), and no row is ever taken twice to fill a batch;
    - a checkpoint is what `content` says, and is committed with a manifest;
    - a loss or a gradient norm that is not finite on any rank raises DivergenceError on all of them.
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
        self.method = method
        self._rows = rows
        self._checkpoints = checkpoints
        self._earlier_tokens = 0
        self._beside = torch.zeros((), device=self.args.device)
        """Of the last micro-batch: what was differentiated beside the cross-entropy, which alone is reported."""
        self._token_count = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self._window_loss = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self.control: TrainerControl
        self.is_fsdp_enabled: bool
        self.pulse: Pulse | None = None
        self.groups = GroupSettings()
        self.keep_best = False
        self.save_limit = 1

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            share_on_cpu(self.accelerator, self.args)
            self.is_fsdp_enabled = True

    def enter(self, phase: Phase) -> None:
        """Tell who watches for hangs what comes now."""
        if self.pulse is not None:
            self.pulse.enter(phase, self.state.global_step)

    def total_tokens(self) -> int:
        """Non-padding tokens of all ranks since step 0, earlier attempts included. All ranks must call it."""
        count = self._token_count.clone()
        if distributed.is_initialized():
            distributed.all_reduce(count)
        return self._earlier_tokens + int(count.item())

    # --- data -----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> RowOrder:
        micro_step = self.args.train_batch_size * self.args.world_size
        group = micro_step * self.args.gradient_accumulation_steps if self._rows.group_by_length else 0
        return RowOrder(self._rows.lengths, (group, micro_step), self.args.seed, self._current_epoch)

    def _current_epoch(self) -> int:
        per_step = self.args.train_batch_size * self.args.world_size
        batches = -(-len(self._rows.lengths) // per_step)
        updates = max(-(-batches // self.args.gradient_accumulation_steps), 1)
        return int(self.state.global_step // updates)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        self.enter("training")
        reach("train.batch")
        window: tuple[list[Any], Any] = super().get_batch_samples(epoch_iterator, num_batches, device)
        return window

    # --- steps ----------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer_cls_and_kwargs = (kind, options | {"params": self.parameter_groups()})
        return super().create_optimizer(model)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Trainable parameters by rate and decay; biases and norms do not decay, as everywhere in transformers."""
        decaying = set(self.get_decay_parameter_names(self.model))
        rates = Rates(self.args.learning_rate, self.args.weight_decay, self.method.learning_rate_scale)
        return parameter_groups(self.model, rates, self.groups, decaying)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        filler = is_filler(inputs)
        ranks = self.accelerator.num_processes
        window = Window(num_items_in_batch, self.current_gradient_accumulation_steps * ranks)
        own = self.method.training_loss(model, inputs, window)
        if own is not None:
            self.loss_is_scaled_for_ga = True
            loss = own.total * ranks  # engines average over the ranks
            self._beside = (own.total - own.cross_entropy).detach() * (0.0 if filler else float(ranks))
        else:
            loss = super().compute_loss(model, inputs, False, num_items_in_batch)
        if poisoned("train.step"):
            return loss * math.nan
        return loss * 0.0 if filler else loss  # penalties that a model adds to its loss do not count either

    def training_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if not is_filler(inputs):
            mask = inputs.get("attention_mask")
            self._token_count += mask.sum() if mask is not None else inputs["input_ids"].numel()
        with computing_on(inputs["input_ids"].shape, self.state.global_step + 1):
            reach("train.step")
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._check_loss(loss)
        self._beat()
        return loss - self._beside

    def _check_loss(self, loss: torch.Tensor) -> None:
        """Once per optimiser step the ranks add their losses up: what is not finite on one is so on all."""
        self._window_loss += loss
        if self.accelerator.sync_gradients:
            if distributed.is_initialized():
                distributed.all_reduce(self._window_loss)
            total = self._window_loss.item()
            if not math.isfinite(total):
                self._diverged("loss", total, self.state.global_step + 1)
            self._window_loss.zero_()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not self.args.fp16 and not math.isfinite(norm):
            self._diverged("gradient norm", norm, self.state.global_step + 1)
        return norm

    def _diverged(self, what: str, value: Any, step: int) -> None:
        raise DivergenceError(
            f"the {what} became {float(value)} at step {step}",
            where=self.method.label,
            fix=f"Lower the learning rate ({self.args.learning_rate:g}); no result was kept",
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        reach("train.logged")

    def _beat(self) -> None:
        if self.pulse is not None:
            self.pulse.beat(self.state.global_step)

    # --- evaluation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """True cross-entropy per answer token over all evaluation rows, in nats; each rank takes every n-th row.

        Raises:
            DivergenceError: it is not finite.
        """
        self.enter("evaluating")
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        model = self.deepspeed if self.is_deepspeed_enabled else self.model
        model.eval()
        for batch in self._evaluation_batches():
            # autocast also where no training step has prepared the model for it
            with computing_on(batch["input_ids"].shape, self.state.global_step), self.accelerator.autocast():
                reach("train.evaluate")
                total += cross_entropy_sum(model, self._prepare_inputs(batch))
            self._beat()
        model.train()
        if distributed.is_initialized():
            distributed.all_reduce(total)
        metrics = {"eval_loss": (total[0] / total[1]).item()}
        if not math.isfinite(metrics["eval_loss"]):
            self._diverged("evaluation loss", metrics["eval_loss"], self.state.global_step)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluation_batches(self) -> DataLoader[Any]:
        """As many on each rank: where a model is shared, its ranks can only compute together."""
        count, ranks = len(self._rows.evaluation), self.args.world_size
        own = list(range(self.args.process_index, count, ranks))
        own += [NOBODY] * (-(-count // ranks) - len(own))
        return DataLoader(
            self._rows.evaluation,
            batch_size=self.args.eval_batch_size,
            sampler=own,
            collate_fn=self._rows.collate,
            generator=torch.Generator(),
        )

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        self.enter("saving")
        step = self.state.global_step
        self.state.num_input_tokens_seen = self.total_tokens()
        self.store_flos()  # sums over all ranks, so all of them must call it
        reach("checkpoint.stage")
        if self.is_world_process_zero():
            self._checkpoints.staging(step)
        barrier()
        write_content(self, self._checkpoints.folder / f".step-{step:08d}.staging")
        barrier()
        if self.is_world_process_zero():
            self._checkpoints.commit(step)
            best = best_step(self.state) if self.keep_best else None
            self._checkpoints.retain(self.save_limit, keep=() if best is None else (best,))
        barrier()

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[Any], resume_from_checkpoint: str | None
    ) -> tuple[nn.Module, DataLoader[Any]]:
        prepared: tuple[nn.Module, DataLoader[Any]] = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            read_content(self, Path(resume_from_checkpoint))
            self._earlier_tokens = self.state.num_input_tokens_seen
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Not yet: weights come with everything else, once the engine holds the model."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called once, after the rows that were trained on already have been passed over."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            read_losses(self, Path(checkpoint))

    def take_up(self, checkpoint: Path) -> None:
        """Be as after the last step of a run whose training has ended, without a step more."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
        self._prepare_for_training(self.state.max_steps, self.get_train_dataloader(), str(checkpoint))


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
