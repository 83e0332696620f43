"""What is done to the plain script from inside, at an exact place: `NAME[:ARGUMENT…]`, applied before its main runs.

The script has no fault points of its own, so its functions and those of its libraries are wrapped. A kill is a real
SIGKILL of its process; half a file is a written file cut in the middle, as a kill in the middle of the write leaves it.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Trainer, TrainerState, trainer

from benchmarks import plain_script

_TRAINABLE = "adapter_model.safetensors"
_PAUSE_SECONDS = 300


def apply(wound: str) -> None:
    """`kill-at-step:25`, `nan-at-step:25`, …: the functions below, by name."""
    name, *arguments = wound.split(":")
    WOUNDS[name](*arguments)


def signal_at_step(step: str, number: str = "KILL") -> None:
    """A signal to the process itself when a step has ended."""
    _at_step_end(int(step), lambda: _signal(number))


def hang_at_step(step: str) -> None:
    """Nothing goes on after a step, as in a collective that blocks."""
    _at_step_end(int(step), lambda: time.sleep(3600))


def hang_in_loader(batch: str) -> None:
    """The n-th batch never comes."""
    _before(DataCollatorForSeq2Seq, "__call__", int(batch), lambda: time.sleep(3600))


def pause_at_step(step: str) -> None:
    """Say that a step was reached (file `reached`) and wait for the file `go`."""
    _at_step_end(int(step), _pause)


def pause_before_registering() -> None:
    _before(plain_script, "register", 1, _pause)


def slow_steps(seconds: str) -> None:
    """Every step takes longer, so that what happens outside happens during training."""
    original = plain_script.StepClock.on_step_end

    def slowed(self: Any, *args: Any, **named: Any) -> None:
        time.sleep(float(seconds))
        original(self, *args, **named)

    plain_script.StepClock.on_step_end = slowed  # type: ignore[method-assign]


def out_of_memory_at_step(step: str) -> None:
    """The accelerator has no memory left."""
    _before(Trainer, "training_step", int(step), _raise_out_of_memory)


def nan_at_step(step: str) -> None:
    """One loss, and so its gradients, are not a number."""
    original, calls = Trainer.compute_loss, [0]

    def poisoned(self: Any, *args: Any, **named: Any) -> Any:
        calls[0] += 1
        loss = original(self, *args, **named)
        return loss * float("nan") if calls[0] == int(step) and torch.is_tensor(loss) else loss

    Trainer.compute_loss = poisoned


def kill_in_reading() -> None:
    """While the CSV files become a dataset."""
    from datasets.arrow_writer import ArrowWriter

    _before(ArrowWriter, "finalize", 1, lambda: _signal("KILL"))


def kill_in_map(row: str) -> None:
    """While rows are tokenised."""
    _before(plain_script, "tokenize", int(row), lambda: _signal("KILL"))


def kill_in_checkpoint(step: str, after: str, number: str = "KILL") -> None:
    """In the save of a step: after the file `after` was written, or half of it (`half-FILE`)."""
    file = after.removeprefix("half-")

    def seen(path: Path) -> None:
        if path.name == file and path.parent.name == f"checkpoint-{step}":
            if after.startswith("half-"):
                os.truncate(path, path.stat().st_size // 2)
            _signal(number)

    _after_every_file(seen)


def kill_in_rotation(step: str, when: str) -> None:
    """Before the oldest checkpoint is deleted, or when half of its files are."""
    original = trainer.rotate_checkpoints

    def rotate(**named: Any) -> None:
        output = Path(named["output_dir"])
        if (output / f"checkpoint-{step}").is_dir():
            oldest = min(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
            for file in sorted(oldest.iterdir())[::2] if when == "half" else []:
                file.unlink()
            _signal("KILL")
        original(**named)

    trainer.rotate_checkpoints = rotate


def kill_in_merge() -> None:
    """When half of the merged weights are written."""
    original = PreTrainedModel.save_pretrained

    def saving(self: Any, folder: Any, *args: Any, **named: Any) -> Any:
        done = original(self, folder, *args, **named)
        if Path(folder).name == "merged":
            weights = Path(folder) / "model.safetensors"
            os.truncate(weights, weights.stat().st_size // 2)
            _signal("KILL")
        return done

    PreTrainedModel.save_pretrained = saving


def kill_in_evaluation() -> None:
    """While the evaluation rows are answered."""
    _before(plain_script, "answer", 1, lambda: _signal("KILL"))


def kill_before_version() -> None:
    """Between the upload of a model and the making of its version."""
    from mlflow.tracking._model_registry.client import ModelRegistryClient

    _before(ModelRegistryClient, "create_model_version", 1, lambda: _signal("KILL"))


def file_limit(path: str, more: str) -> None:
    """No file grows beyond the size that `path` has now, and `more` bytes: writing further is refused by the kernel."""
    size = Path(path).stat().st_size + int(more)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


WOUNDS: dict[str, Callable[..., None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        signal_at_step,
        hang_at_step,
        hang_in_loader,
        pause_at_step,
        pause_before_registering,
        slow_steps,
        out_of_memory_at_step,
        nan_at_step,
        kill_in_reading,
        kill_in_map,
        kill_in_checkpoint,
        kill_in_rotation,
        kill_in_merge,
        kill_in_evaluation,
        kill_before_version,
        file_limit,
    )
}


def _signal(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[f"SIG{name}"])


def _pause() -> None:
    Path("reached").touch()
    deadline = time.monotonic() + _PAUSE_SECONDS
    while not Path("go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _raise_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _at_step_end(step: int, action: Callable[[], object]) -> None:
    """After the script's own note of the step; the checkpoint of this step is not yet made."""
    original = plain_script.StepClock.on_step_end

    def noted(self: Any, args: Any, state: Any, control: Any, **named: Any) -> None:
        original(self, args, state, control, **named)
        if state.global_step == step:
            action()

    plain_script.StepClock.on_step_end = noted  # type: ignore[method-assign]


def _before(owner: Any, name: str, call: int, action: Callable[[], object]) -> None:
    """Act before the n-th call (from 1) of a function."""
    original, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            action()
        return original(*args, **named)

    setattr(owner, name, wrapped)


def _after_every_file(seen: Callable[[Path], None]) -> None:
    """Call with each file of a checkpoint when it is written."""
    save, save_model, save_state = torch.save, Trainer.save_model, TrainerState.save_to_json

    def saved(thing: Any, path: Any, *args: Any, **named: Any) -> None:
        save(thing, path, *args, **named)
        seen(Path(path))

    def model_saved(self: Any, folder: Any = None, **named: Any) -> None:
        save_model(self, folder, **named)
        seen(Path(folder or self.args.output_dir) / _TRAINABLE)

    def state_saved(self: Any, path: str) -> None:
        save_state(self, path)
        seen(Path(path))

    torch.save, Trainer.save_model, TrainerState.save_to_json = saved, model_saved, state_saved
