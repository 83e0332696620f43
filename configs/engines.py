"""`distributed.strategy`: what ranks share. DeepSpeed configurations are the shipped ones by name, your own by path."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from configs.wording import listed, nearest, shown
from tasks.foundation.errors import ConfigError
from tasks.launch import Launcher
from tasks.training.settings import TrainingSettings

SHIPPED: Final = Path(__file__).parent / "deepspeed"

_Contradiction = tuple[str, str, str]
"""Key, what is wrong with it, and the way out."""

_WHERE = "distributed.strategy"
_WITHOUT_DEEPSPEED = ("ddp", "fsdp2")
_MAX_BYTES = 256 * 1024
_AUTO = "auto"
_OWN_ROWS = "every rank takes rows of its own"
_NOT_OURS = {
    "optimizer": "training.optim and each method's rates decide",
    "scheduler": "training.lr_scheduler_type decides",
    "amp": "training.precision decides",
    "torch_autocast": "training.precision decides",
    "elasticity": "it would change the batch; training sets it",
    "autotuning": "it would change the batch; training sets it",
    "curriculum_learning": "it would change which rows are seen when",
    "data_efficiency": "it would change which rows are seen when",
    "compression_training": "the methods of the experiment decide what is trained",
    "tensorboard": "every run is recorded in MLflow, and no rank talks to a server",
    "wandb": "every run is recorded in MLflow, and no rank talks to a server",
    "comet": "every run is recorded in MLflow, and no rank talks to a server",
    "checkpoint": "checkpoints are sealed as soon as they are written; training.save_steps decides when",
    "activation_checkpointing": "training.gradient_checkpointing decides",
    "tensor_parallel": _OWN_ROWS,
    "sequence_parallel_size": _OWN_ROWS,
    "pipeline": _OWN_ROWS,
    "gradient_allreduce_op": "gradients are those of the mean over all answer tokens of a step",
    "managed_gradient_accumulation": "training.gradient_accumulation_steps decides",
}
"""Sections of a DeepSpeed configuration that would decide what the experiment decides, and why they are refused."""
_SHARED_OUT = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping")
_TAKEN = {
    *_SHARED_OUT,
    "aio",
    "bf16",
    "comms_logger",
    "communication_data_type",
    "csv_monitor",
    "data_types",
    "disable_allgather",
    "disable_python_gc",
    "dump_state",
    "flops_profiler",
    "fp16",
    "gradient_predivide_factor",
    "log_level",
    "memory_breakdown",
    "prescale_gradients",
    "sparse_gradients",
    "steps_per_print",
    "timers",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
}
"""What the experiment leaves open. DeepSpeed itself passes over a key that it does not know without a word."""
_ONLY = {
    "zero_force_ds_cpu_optimizer": (False, "training.optim decides"),
    "zero_optimization.compute_grad_norm": (
        True,
        "the gradient's norm is recorded, and clipped to training.max_grad_norm",
    ),
    "zero_optimization.load_from_fp32_weights": (True, "a resumed run has to go on from the same weights"),
}
"""Key -> the one value that it may have, and why."""


def strategies() -> tuple[str, ...]:
    """Every name that `distributed.strategy` knows."""
    return (*_WITHOUT_DEEPSPEED, *sorted(path.stem for path in SHIPPED.glob("*.json")))


def deepspeed_of(
    distributed: Launcher, training: TrainingSettings, platform: str = sys.platform
) -> dict[str, Any] | None:
    """The configuration that `distributed.strategy` names; None for `ddp` and `fsdp2`.

    Batch sizes, precision and clipping come back as "auto" whatever the file says: it may only repeat the experiment.
    An optimiser that is offloaded is the experiment's own, not one of DeepSpeed's in its place.

    Raises:
        ConfigError: no such strategy, no such file, not a DeepSpeed configuration, one that contradicts the
            experiment, or one that cannot run here.
    """
    for problem in engine_problems(distributed, training, platform):
        raise problem
    path = _file(distributed.strategy)
    return None if path is None else (config := _read(path)) | _left_open(config)


def engine_problems(
    distributed: Launcher, training: TrainingSettings, platform: str = sys.platform
) -> list[ConfigError]:
    """Everything that is wrong with `distributed.strategy` and the file that it names."""
    try:
        path = _file(distributed.strategy)
        if distributed.strategy != "ddp":
            _check_platform(distributed.strategy, platform)
        config = {} if path is None else _read(path)
    except ConfigError as error:
        return [error]
    found = [*_sections(config), *_repetitions(config, distributed, training), *_precisions(config, training.precision)]
    return [ConfigError(what, where=f"{path}: {key}", fix=fix) for key, what, fix in found]


def unknown_strategy(strategy: str) -> ConfigError | None:
    """The error for what is neither a name nor a path."""
    if strategy in strategies() or strategy.endswith(".json"):
        return None
    close = nearest(strategy, strategies())
    fix = f"Did you mean {close}?" if close else "A configuration of your own is named by its path"
    allowed = f"{listed(strategies())}, or a file that ends in .json"
    return ConfigError(f"no strategy {shown(strategy)}", where=_WHERE, allowed=allowed, fix=fix)


def _file(strategy: str) -> Path | None:
    """The JSON file behind a strategy, relative to the working directory as data are."""
    if (unknown := unknown_strategy(strategy)) is not None:
        raise unknown
    if strategy in _WITHOUT_DEEPSPEED:
        return None
    if strategy in strategies():
        return SHIPPED / f"{strategy}.json"
    path = Path(strategy)
    try:
        if path.is_file():
            return path
        close = nearest(path.name, sorted(entry.name for entry in path.parent.glob("*.json")))
    except (OSError, ValueError):  # a name that no file can have
        close = ""
    fix = f"Did you mean {path.parent / close}?" if close else "Check the path (relative to the working directory)"
    raise ConfigError(f"{shown(strategy)[1:-1]} is not a file", where=_WHERE, fix=fix)


def _check_platform(strategy: str, platform: str) -> None:
    """Both engines are for Linux; DeepSpeed is installed there only."""
    if platform != "linux":
        what = f"{strategy} runs on Linux only, and this is {platform}"
        raise ConfigError(what, where=_WHERE, allowed="ddp", fix="Set distributed.strategy: ddp")
    if strategy != "fsdp2" and importlib.util.find_spec("deepspeed") is None:
        fix = "Install it (pip install deepspeed), or set distributed.strategy: ddp"
        raise ConfigError(f"{strategy} needs deepspeed, which is not installed", where=_WHERE, fix=fix)


def _read(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        config = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        rest = text[error.pos :].lstrip()
        comment = rest.startswith(("//", "#", "/*"))
        what = "a comment; JSON has none" if comment else f"not JSON (column {error.colno}): {error.msg}"
        fix = "Remove it" if comment else "Mend the file"
        raise ConfigError(what, where=f"{path}:{error.lineno}", fix=fix) from error
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, ValueError) else "nested too deep"
        raise ConfigError(f"not a DeepSpeed configuration: {said}", where=str(path), fix="Mend the file") from error
    if not isinstance(config, dict):
        raise ConfigError(f"the file holds {shown(config)}", where=str(path), allowed="a DeepSpeed configuration")
    _check_stage(config, path)
    return config


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            allowed = f"{_MAX_BYTES // 1024} KiB"
            raise ConfigError("is too large for a DeepSpeed configuration", where=str(path), allowed=allowed)
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})", where=str(path), fix="Check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8", where=str(path), fix="Save the file as UTF-8") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{shown(key)} stands twice")
        found[key] = value
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number that JSON has")


def _check_stage(config: dict[str, Any], path: Path) -> None:
    section = config.get("zero_optimization", {})
    if not isinstance(section, dict):
        what = f"{shown(section)} does not fit"
        raise ConfigError(what, where=f"{path}: zero_optimization", allowed='a mapping like {"stage": 2}')
    stage = section.get("stage", 0)
    if type(stage) is not int or stage not in range(4):
        what = f"{shown(stage)} does not fit"
        raise ConfigError(what, where=f"{path}: zero_optimization.stage", allowed="0, 1, 2 or 3")


def _sections(config: dict[str, Any]) -> Iterator[_Contradiction]:
    for section, reason in _NOT_OURS.items():
        if section in config:
            yield section, f"is not read from here: {reason}", "Remove the section"
    for key in sorted(config.keys() - _TAKEN - _NOT_OURS.keys()):
        close = nearest(key, sorted(_TAKEN))
        yield key, "is no key that training passes on to DeepSpeed", f"Did you mean {close}?" if close else "Remove it"
    for key, (only, reason) in _ONLY.items():
        section, _, name = key.rpartition(".")
        got = (config.get(section, {}) if section else config).get(name, only)
        if got is not only:
            yield key, f"{shown(got)} does not fit: {reason}", f"Write {shown(only)}, or remove it"


def _repetitions(config: dict[str, Any], distributed: Launcher, training: TrainingSettings) -> Iterator[_Contradiction]:
    micro, steps = training.per_device_train_batch_size, training.gradient_accumulation_steps
    ranks = distributed.node_count * distributed.ranks_per_node
    said: dict[str, tuple[float, str]] = {
        "train_micro_batch_size_per_gpu": (micro, f"training.per_device_train_batch_size is {micro}"),
        "gradient_accumulation_steps": (steps, f"training.gradient_accumulation_steps is {steps}"),
        "train_batch_size": (micro * steps * ranks, f"ranks x sequences x micro-steps are {ranks} x {micro} x {steps}"),
        "gradient_clipping": (training.max_grad_norm, f"training.max_grad_norm is {training.max_grad_norm:g}"),
    }
    for key, (value, ours) in said.items():
        got = config.get(key, _AUTO)
        if got != _AUTO and (isinstance(got, bool) or got != value):
            yield key, f"{shown(got)} contradicts the experiment, where {ours}", 'Write "auto"'


def _precisions(config: dict[str, Any], ours: str) -> Iterator[_Contradiction]:
    for key in ("bf16", "fp16"):
        section = config.get(key, {})
        if not isinstance(section, dict):
            yield key, f"{shown(section)} does not fit", 'Write {"enabled": "auto"}'
            continue
        got = section.get("enabled", _AUTO)
        if got != _AUTO and (ours == _AUTO or got is not (ours == key)):
            what = f"{shown(got)} contradicts the experiment, where training.precision is {ours}"
            yield f"{key}.enabled", what, 'Write "auto": training.precision decides'


def _left_open(config: dict[str, Any]) -> dict[str, Any]:
    precision = {key: {**config.get(key, {}), "enabled": _AUTO} for key in ("bf16", "fp16")}
    offloads = "offload_optimizer" in config.get("zero_optimization", {})
    own = {"zero_force_ds_cpu_optimizer": False} if offloads else {}  # by itself it would take another optimiser
    return {**dict.fromkeys(_SHARED_OUT, _AUTO), **precision, **own}
