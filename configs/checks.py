"""What can be known before anything is computed, and without torch, transformers, MLflow or Prefect."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from configs.engines import deepspeed_of, engine_problems
from configs.experiment import Experiment, Paths
from configs.first_rows import first_rows
from configs.wording import nearest, shown
from tasks.data.settings import DataSettings
from tasks.data.sources import Side, Source, resolve_sources
from tasks.embedded import EMBEDDED_PREFIX
from tasks.foundation.disk import free_bytes
from tasks.foundation.errors import ConfigError, DataError, ResourceError, TunelineError
from tasks.health.machine import writable_check
from tasks.health.servers import tracking_check
from tasks.launch.slots import accelerators
from tasks.methods import Conditions, Method, base_quantization, refuse_quantization
from tasks.metrics import all_metrics
from tasks.models import BaseModelFacts, ModelSettings, resolve_base
from tasks.sources.reference import check_sources
from tasks.tracking.uri import sqlite_file, tracking_uri
from tasks.training.engines import refuse_engine, resolve_precision
from tasks.vocabulary import check_settings, check_tokens, read_document

T = TypeVar("T")

EMBEDDED_MODEL: Final = f"{EMBEDDED_PREFIX}tiny-llama"
_STATE_BYTES = 12
"""Per trained parameter in a checkpoint: float32 weights and Adam's two moments."""
_BESIDES_BYTES = 50 << 20
"""Room for what no cell leaves: the databases of Prefect and MLflow with their logs, journals, reports. A disk that
fills before these are open cannot even say so."""
_WRITTEN: Final = ("artifacts", "work", "spool", "reports")
"""Folders below the runs folder that a run writes into; each may have been given another owner or be a mount."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def validate(
    experiment: Experiment, environment: Mapping[str, str] = os.environ, *, rows: bool = True
) -> list[TunelineError]:
    """Every problem that files, sizes and settings show; empty when the experiment can start.

    `rows`: look at the first rows of each file too. A run leaves that to its data step, which keeps what is bad.

    Hub models and data sets are not fetched, and of them only the settings are checked. A local base is read once to
    digest it: about a second per gigabyte.
    """
    problems: list[TunelineError] = []
    facts = _caught(problems, lambda: _base_facts(experiment))
    _caught(problems, lambda: _check_vocabulary(experiment.model))
    for side in ("train", "eval"):
        problems += _data_problems(experiment, side, rows=rows)
    _caught(problems, lambda: _check_probe(experiment.evaluation.probe))
    problems += _engine_problems(experiment)
    for method in experiment.methods:
        _caught(problems, partial(check_sources, method))
    if facts is not None:
        problems += _method_problems(experiment, facts)
        _caught(problems, lambda: _check_answer_room(experiment, facts))
    _caught(problems, lambda: _check_store(experiment))
    _caught(problems, lambda: _check_room(experiment, facts, Paths.from_environment(environment).runs))
    return problems


def _caught(problems: list[TunelineError], check: Callable[[], T]) -> T | None:
    try:
        return check()
    except TunelineError as error:
        problems.append(error)
        return None


def _base_facts(experiment: Experiment) -> BaseModelFacts | None:
    """None for a base that is made or fetched at the start of the run."""
    settings = experiment.model
    if settings.name_or_path.startswith(EMBEDDED_PREFIX):
        if settings.name_or_path != EMBEDDED_MODEL:
            what = f"no embedded model {shown(settings.name_or_path)}"
            raise ConfigError(what, where="model.name_or_path", allowed=EMBEDDED_MODEL, fix=f"Use {EMBEDDED_MODEL}")
        return None
    if settings.revision and not Path(settings.name_or_path).is_dir():
        return None
    return resolve_base(settings).facts


def _check_vocabulary(settings: ModelSettings) -> None:
    """What the files of an extension show; a base that is made or fetched is looked at when it is there."""
    if settings.extend_vocabulary is None:
        return
    check_settings(settings.extend_vocabulary)
    if (folder := Path(settings.name_or_path)).is_dir():
        check_tokens(settings.extend_vocabulary, read_document(folder, extends=True))


def _data_problems(experiment: Experiment, side: Side, *, rows: bool) -> list[TunelineError]:
    problems: list[TunelineError] = []
    sources = _caught(problems, lambda: resolve_sources(experiment.data, side))
    for source in (sources or ()) if rows else ():
        for path in source.files:
            _caught(problems, partial(_check_rows, source, path, experiment.data))
    return problems


def _check_rows(source: Source, path: Path, data: DataSettings) -> None:
    rows = first_rows(path, source.format, source.columns, data.max_row_characters)
    if rows.bad and data.max_bad_fraction == 0:
        more = f" ({len(rows.bad)} of the first {len(rows.bad) + len(rows.rows)} rows are bad)"
        fix = "Repair the rows, or allow a share of bad ones with data.max_bad_fraction"
        raise DataError(rows.bad[0].partition(": ")[2] + more, where=rows.bad[0].partition(": ")[0], fix=fix)


def _check_probe(probe: str | None) -> None:
    if probe is not None and not probe.startswith(EMBEDDED_PREFIX) and not Path(probe).is_file():
        close = nearest(Path(probe).name, _names_in(Path(probe).parent))
        fix = f"Did you mean {Path(probe).parent / close}?" if close else "Name a text file"
        raise DataError(f"{probe} does not exist", where="evaluation.probe", fix=fix)


def _names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _check_answer_room(experiment: Experiment, facts: BaseModelFacts) -> None:
    """Generated answers leave room for a prompt."""
    length, context = experiment.evaluation.max_new_tokens, facts.max_position_embeddings
    generates = any(all_metrics()[name].needs == "generation" for name in experiment.evaluation.metrics)
    if generates and 0 < context <= length:
        what = f"{length} tokens leave no room for a prompt in the model's context of {context}"
        raise ConfigError(what, where="evaluation.max_new_tokens", allowed=f"below {context}", fix="Lower it")


def _engine_problems(experiment: Experiment) -> list[TunelineError]:
    """What is wrong with the strategy, and which methods and which precision cannot be had under it."""
    distributed, training = experiment.distributed, experiment.training
    problems: list[TunelineError] = [*engine_problems(distributed, training)]
    if problems:
        return problems
    layout = distributed.layout(deepspeed_of(distributed, training), accelerators=bool(accelerators()))
    for method in experiment.methods:
        if method.holds != "nothing":
            held = base_quantization(method, experiment.model.quantized())
            _caught(problems, partial(refuse_engine, method, training, layout, held))
    _caught(problems, lambda: resolve_precision(training, layout))
    return problems


def _method_problems(experiment: Experiment, facts: BaseModelFacts) -> list[TunelineError]:
    conditions = Conditions(
        gradient_checkpointing=experiment.training.gradient_checkpointing,
        packing=experiment.data.packing,
        max_seq_length=experiment.data.max_seq_length,
    )
    problems: list[TunelineError] = []
    own = experiment.model.quantized()
    for method in experiment.methods:
        _caught(problems, partial(refuse_quantization, method, own))
        wanted = conditions.model_copy(update={"quantization": base_quantization(method, own)})
        _caught(problems, partial(method.check, facts, wanted))
    return problems


def _check_store(experiment: Experiment) -> None:
    """The tracking URI is one, and a database file can be written. A server may be down: the events wait for it."""
    uri = tracking_uri(experiment.tracking)
    if sqlite_file(uri) is None:
        return
    found = tracking_check(uri)
    if not found.ok:
        raise ResourceError(found.detail, where="tracking.uri", fix=found.fix)


def _check_room(experiment: Experiment, facts: BaseModelFacts | None, runs: Path) -> None:
    """Outputs can be written, and what the cells leave fits on the disk."""
    for folder in (runs, *(runs / name for name in _WRITTEN)):
        if not (writable := writable_check(folder)).ok:
            raise ResourceError(writable.detail, where="runs folder", fix=writable.fix)
    kept = sum(_kept_bytes(method, experiment, facts) for method in experiment.methods) if facts else 0
    needed = kept + _BESIDES_BYTES
    free = free_bytes(runs)
    if needed > free:
        fix = "Free space, move the runs folder with TUNELINE_RUNS, or compare fewer methods or seeds"
        raise ResourceError(f"about {needed:,} bytes are needed and {free:,} are free", where=str(runs), fix=fix)


def _kept_bytes(method: Method, experiment: Experiment, facts: BaseModelFacts) -> int:
    """Of one method's cells: whole models (trained or merged), and one set of checkpoints while it trains."""
    merges = not method.unmergeable() and experiment.merge.enabled
    if method.holds != "model" and not merges:
        return 0
    models = len(experiment.training.seeds) * facts.parameters * _BYTES.get(facts.dtype, 4)
    if method.holds != "model":
        return models
    return models + experiment.training.save_total_limit * facts.parameters * _STATE_BYTES
