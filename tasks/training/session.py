"""One cell from seeds to saved weights, in the order in which it must happen."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.artifacts import write_durably
from tasks.data.collate import Collator
from tasks.foundation.digests import digest_tree
from tasks.foundation.errors import CancelledRunError, ConfigError, DataError, IntegrityError
from tasks.foundation.faults import reach
from tasks.methods import Method, Moment, Supplies, base_quantization, parse_method
from tasks.models.loading import load_base, load_tokenizer
from tasks.training.arguments import training_arguments
from tasks.training.audit import ParameterAudit
from tasks.training.checkpoints import Checkpoints
from tasks.training.content import TRAINABLE, finite_tensors, read_trainable
from tasks.training.determinism import make_deterministic
from tasks.training.divergence import StopOnDivergence
from tasks.training.fence import Fence
from tasks.training.foresight import check_room
from tasks.training.meeting import meet
from tasks.training.memory import peak_memory_bytes
from tasks.training.noise import EmbeddingNoise
from tasks.training.order import RowOrder
from tasks.training.preflight import check_places
from tasks.training.pulse import Pulse
from tasks.training.recorder import Recorder
from tasks.training.resuming import agreed_step
from tasks.training.shards import element_count
from tasks.training.stopping import EarlyStopping, StopOnSignal, best_step, evaluations, stalled
from tasks.training.trainer import CellTrainer, RowSets
from tasks.training.values import Cell, TrainCost, TrainRequest, TrainResult

log = logging.getLogger(__name__)

WHOLLY_SHARED = 3
"""ZeRO stage at which ranks share the weights too, from the moment they are read."""


class MethodHook(TrainerCallback):  # type: ignore[misc]
    """Gives the method its turn before each optimiser step, and after it while the gradients are there."""

    def __init__(self, method: Method, model: nn.Module) -> None:
        self._method = method
        self._model = model

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._method.before_step(self._model, Moment(state.global_step + 1, state.max_steps, args.seed))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._method.after_optimizer_step(self._model, Moment(state.global_step + 1, state.max_steps, args.seed))


def train_cell(request: TrainRequest) -> None:
    """Train, or go on from the newest good checkpoint, and leave weights, result.json and cost.json in `output`.

    Raises:
        CancelledRunError: after SIGTERM, once the checkpoint is committed.
        DivergenceError, DataError, ModelError, ConfigError: by cause; no bad checkpoint is kept.
    """
    started = time.monotonic()
    cell = request.cell
    pulse = Pulse(request.work, int(os.environ.get("RANK", "0")))
    threads = cell.training.threads_per_rank or (1 if cell.layout.device == "cpu" else None)
    make_deterministic(cell.seed, strict=cell.training.deterministic, threads=threads)
    meet(cell.layout, request.loading_seconds)
    check_places(request)
    arguments = training_arguments(cell, request.work / "trainer")
    fence = Fence(request.work, request.attempt)
    checkpoints = Checkpoints(request.work / "checkpoints", request.identity, fence.check)
    trainer, stop, recorder = build_trainer(request, arguments, checkpoints)
    trainer.pulse = pulse
    resumed = agreed_step(checkpoints)
    if resumed is None:
        trainer.train()
    else:
        go_on(trainer, recorder, checkpoints.path(resumed), cell.training.early_stopping_patience)
    if stop.stopped:
        step = trainer.state.global_step
        raise CancelledRunError(f"stopped at step {step} with a checkpoint", fix="Run it again to go on from there")
    result = finish(trainer, request, checkpoints)
    if result is not None:
        cost = _cost(result, recorder, resumed, time.monotonic() - started)
        if cell.adopted:
            cost = cost.model_copy(update={"resumed_from_world_size": cell.adopted.ranks})
        write_durably(request.output / "cost.json", cost.model_dump_json(indent=2))


def build_model(cell: Cell, method: Method, rows: RowSets) -> nn.Module:
    """The base with the method attached, where the engine wants it; seeds are set and ranks have met already."""
    reach("train.load")
    layout = cell.layout
    device = f"cuda:{torch.cuda.current_device()}" if layout.device == "cuda" else "cpu"
    shared = layout.engine == "fsdp2" or layout.zero_stage == WHOLLY_SHARED
    quantization = base_quantization(method, cell.base.quantization)
    base = load_base(cell.base, quantization=quantization, device=device, shared=shared)
    base.config.use_cache = False
    model = method.attach(base, Supplies(cell.sources, partial(_batches, rows, cell), cell.seed, cell.base))
    if cell.start is not None:
        method.start_from(model, cell.start)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("no parameter of the model would train", where=method.label)
    if cell.training.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def _batches(rows: RowSets, cell: Cell) -> Iterator[dict[str, torch.Tensor]]:
    """The training rows once, in the order of the first epoch of one rank."""
    size = cell.training.per_device_train_batch_size
    order = list(RowOrder(rows.lengths, (0, size), cell.seed, lambda: 0))
    for begin in range(0, len(order), size):
        yield rows.collate(rows.train.__getitems__(order[begin : begin + size]))  # as a DataLoader reads


def build_trainer(
    request: TrainRequest, arguments: TrainingArguments, checkpoints: Checkpoints
) -> tuple[CellTrainer, StopOnSignal, Recorder]:
    """Model and Trainer, with all our callbacks."""
    cell = request.cell
    settings, method = cell.training, parse_method(cell.method)
    rows = read_rows(cell)
    model = build_model(cell, method, rows)
    check_room(request, model)
    trainer = CellTrainer(model, arguments, method, rows, checkpoints)
    trainer.groups = settings
    trainer.keep_best = settings.keep_best
    trainer.save_limit = settings.save_total_limit
    stop = StopOnSignal()
    recorder = Recorder(request.work, Fence(request.work, request.attempt).check)
    for callback in (recorder, MethodHook(method, model), ParameterAudit(model), stop):
        trainer.add_callback(callback)
    if settings.neftune_noise_alpha:
        trainer.add_callback(EmbeddingNoise(settings.neftune_noise_alpha, model))
    if settings.divergence_factor:
        trainer.add_callback(StopOnDivergence(settings.divergence_factor, settings.divergence_patience))
    if settings.early_stopping_patience:
        trainer.add_callback(EarlyStopping(settings.early_stopping_patience))
    return trainer, stop, recorder


def read_rows(cell: Cell) -> RowSets:
    """The tokenised rows, memory-mapped."""
    folder = cell.tokens.path
    train = Dataset.from_file(str(folder / "train.arrow"))
    if not len(train):
        raise DataError("no training row is left", where=str(folder))
    tokenizer = load_tokenizer(cell.base)
    return RowSets(
        train=train,
        evaluation=Dataset.from_file(str(folder / "eval.arrow")),
        lengths=train["length"][:],
        collate=Collator(tokenizer.pad_token_id),
        group_by_length=cell.training.group_by_length,
    )


def go_on(trainer: CellTrainer, recorder: Recorder, checkpoint: Path, patience: int | None) -> None:
    """Train on from a checkpoint; one at which training had ended already only gives its weights and its history."""
    log.info("going on from %s", checkpoint.name)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps and not (patience and stalled(state, patience)):
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    trainer.take_up(checkpoint)
    if trainer.is_world_process_zero():
        recorder.take_up(state.log_history, int(trainer.args.logging_steps))


def finish(trainer: CellTrainer, request: TrainRequest, checkpoints: Checkpoints) -> TrainResult | None:
    """Take the best weights where asked, measure the last loss, save, and write result.json last; None but on rank 0.

    Raises:
        IntegrityError: the checkpoint with the best loss is damaged.
        DivergenceError: a weight is not finite.
    """
    reach("train.finish")
    method = parse_method(request.cell.method)
    best = best_step(trainer.state) if trainer.keep_best else None
    eval_loss = _last_loss(trainer, best)
    trainer.enter("finishing")
    tokens = trainer.total_tokens()
    weights = finite_tensors(trainer, frozen=method.holds == "model")
    if best is not None and best != trainer.state.global_step:
        weights |= read_trainable(trainer.model, _best(checkpoints, best) / TRAINABLE)
    if not trainer.is_world_process_zero():
        return None
    reach("train.save")
    folder = request.output / method.holds
    folder.mkdir(parents=True, exist_ok=True)
    method.save(trainer.accelerator.unwrap_model(trainer.model), folder, weights)
    shutil.copyfile(request.work / "metrics.jsonl", request.output / "metrics.jsonl")
    result = _result(trainer, folder, eval_loss, tokens)
    reach("train.result")
    Fence(request.work, request.attempt).check()
    write_durably(request.output / "result.json", result.model_dump_json(indent=2))
    return result


def _best(checkpoints: Checkpoints, step: int) -> Path:
    """Checked once more: it may have lain there for long."""
    try:
        return checkpoints.intact(step)
    except IntegrityError as error:
        raise IntegrityError(
            f"the checkpoint with the best loss is damaged ({error})",
            where=str(checkpoints.path(step)),
            fix=f"Delete {checkpoints.folder} and run it again: this cell then trains from the start",
        ) from error


def _last_loss(trainer: CellTrainer, best: int | None) -> float | None:
    measured = dict(evaluations(trainer.state))
    step = best or trainer.state.global_step
    if not len(trainer.eval_dataset):
        return None
    return measured[step] if step in measured else trainer.evaluate()["eval_loss"]


def _result(trainer: CellTrainer, folder: Path, eval_loss: float | None, tokens: int) -> TrainResult:
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    parameters = list(trainer.model.parameters())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainResult(
        steps=trainer.state.global_step,
        train_loss=losses[-1],
        eval_loss=eval_loss,
        best_step=best_step(trainer.state) if trainer.keep_best else None,
        trainable_parameters=sum(element_count(parameter) for parameter in parameters if parameter.requires_grad),
        total_parameters=sum(map(element_count, parameters)),
        weights_bytes=sum((folder / name).stat().st_size for name in weights),
        weights_digest=digest_tree(folder, weights),
        train_tokens=tokens,
    )


def _cost(result: TrainResult, recorder: Recorder, resumed: int | None, seconds: float) -> TrainCost:
    return TrainCost(
        train_seconds=round(recorder.earlier_seconds + seconds, 3),
        step_seconds_median=recorder.step_seconds_median,
        tokens_per_second=round(result.train_tokens / recorder.step_seconds, 1) if recorder.step_seconds else 0.0,
        peak_memory_bytes=peak_memory_bytes(),
        resumed_from_step=resumed,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    )
