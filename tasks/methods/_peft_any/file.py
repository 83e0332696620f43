"""adapter_config.json as it comes from elsewhere: read, checked against what PEFT knows, and never trusted.

Nothing in such a file is executed, opened or fetched; what is said of it here needs neither PEFT nor torch.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from tasks.foundation.errors import ConfigError
from tasks.methods._peft_any.fields import COMMON, FIELDS
from tasks.methods._peft_any.types import REFUSED, REFUSED_FIELDS, REFUSED_VALUES, is_set
from tasks.methods._targets import ALL_LINEAR

log = logging.getLogger(__name__)

CONFIG_FILE: Final = "adapter_config.json"
TRAINING_FILE: Final = "training_params.json"
_MAX_BYTES: Final = 1 << 20
_IGNORED: Final = COMMON - {"peft_type", "task_type"} | {
    "megatron_core",
    "runtime_config",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
}
"""What says nothing of the adapter itself: names, paths and versions of the machine and the model it was made on."""
_SIZES: Final = frozenset({"token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"})
"""Sizes of the model that it was made on: ours decides."""
_HERE: Final = "CAUSAL_LM"


class Problem(NamedTuple):
    """Why a configuration cannot be used."""

    what: str
    allowed: str = ""
    fix: str = ""

    def __str__(self) -> str:
        parts = (self.what, f"Allowed: {self.allowed}" if self.allowed else "", self.fix)
        return ". ".join(part for part in parts if part)

    def error(self, where: str) -> ConfigError:
        return ConfigError(self.what, where=where, allowed=self.allowed, fix=self.fix)


def read_configuration(file: Path) -> dict[str, Any]:
    """What the file says of the adapter, without what is not heeded (which one line of the log names).

    Raises:
        ConfigError: not JSON, or of a type or with a field that PEFT does not know or that is not run here.
    """
    config = read_object(file)
    if problem := find_problem(config):
        raise problem.error(str(file))
    kept = heeded(config)
    if left_out := sorted(name for name in config.keys() - kept.keys() - {"task_type"} if config[name] is not None):
        log.info("%s: not heeded, since the base and this machine decide: %s", file, ", ".join(left_out))
    return kept


def heeded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what belongs to the machine and the model of its making."""
    kind = str(config.get("peft_type"))
    known = (FIELDS.get(kind, frozenset()) | {"peft_type"}) - _IGNORED - _SIZES
    if kind == "ADALORA":
        known -= {"rank_pattern"}  # which ranks of which layers survived there
    if config.get("encoder_hidden_size") == config.get("token_dim"):
        known -= {"encoder_hidden_size"}  # PEFT fills it in from the model
    kept = {name: value for name, value in sorted(config.items()) if name in known}
    if isinstance(start := kept.get("init_lora_weights"), str):
        kept["init_lora_weights"] = start.lower()  # as PEFT reads it
    return kept


def find_problem(config: Mapping[str, Any]) -> Problem | None:
    """The first reason why a configuration cannot be used, as far as the file alone shows."""
    kind = config.get("peft_type")
    if kind in REFUSED:
        return Problem(f"peft_type {kind} cannot run: {REFUSED[str(kind)]}", fix="Take another type")
    if not isinstance(kind, str) or kind not in FIELDS:
        what = "no peft_type" if kind is None else f"unknown peft_type {kind!r}"
        return Problem(what, ", ".join(sorted(FIELDS.keys() - REFUSED.keys())), _nearest(str(kind), FIELDS))
    if (task := config.get("task_type")) not in (None, _HERE):
        return Problem(f"task_type {task!r} is not what is trained here", _HERE, "Take an adapter for a causal model")
    return _unknown(kind, config) or _refused(config)


def _unknown(kind: str, config: Mapping[str, Any]) -> Problem | None:
    """A newer PEFT writes fields that this one has not: those that ask for nothing are let through."""
    known = FIELDS[kind] | COMMON
    for name in sorted(config.keys() - known):
        if config[name] is not None:
            fix = _nearest(name, known) or "Remove it, or take a file of PEFT 0.21.2"
            return Problem(f"{kind} has no field {name}", ", ".join(sorted(FIELDS[kind])), fix)
    return None


def _refused(config: Mapping[str, Any]) -> Problem | None:
    for name, reason in REFUSED_FIELDS.items():
        if is_set(config, name):
            return Problem(f"{name} is refused: {reason}", fix=f"Remove {name}")
    for (name, value), reason in REFUSED_VALUES.items():
        if config.get(name) == value:
            return Problem(f"{name}: {value} is refused: {reason}", fix=f"Take another {name}")
    if str(config.get("init_lora_weights")).startswith("pissa_niter_"):
        what = "init_lora_weights: a randomised SVD starts elsewhere whenever the adapter is loaded"
        return Problem(what, fix="Take pissa, or {kind: lora, init_lora_weights: pissa}")
    if config.get("peft_type") == "ADALORA" and config.get("target_r", 8) >= config.get("init_r", 12):
        return Problem("target_r is not below init_r, so there is no rank to give up", fix="Lower target_r")
    if config.get("shadow_model", "mirror") != "mirror":
        return Problem("shadow_model names a model to be fetched", "mirror", "Set shadow_model: mirror")
    if config.get("boft_n_butterfly_factor", 1) != 1:
        what = "boft_n_butterfly_factor above 1 needs a CUDA extension that PEFT compiles, and is 1 without it"
        return Problem(what, "1", "Set boft_n_butterfly_factor: 1")
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets != ALL_LINEAR and is_set(config, "layers_to_transform"):
        what = "layers_to_transform is passed over by PEFT where target_modules is an expression"
        return Problem(what, fix="Name the blocks in the expression, or the layers as a list")
    return None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 1 MiB.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"is over {_MAX_BYTES:,} bytes", where=str(file), fix="Name an adapter_config.json")
        value = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(file), fix="Name another file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}", where=str(file), fix="Repair it") from error
    if not isinstance(value, dict):
        raise ConfigError("holds no JSON object", where=str(file), fix="Name an adapter_config.json")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _nearest(word: str, known: Mapping[str, Any] | frozenset[str]) -> str:
    by_folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_folded, n=1)
    return f"Did you mean {by_folded[close[0]]}?" if close else ""
