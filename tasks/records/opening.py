"""The run of one cell: opened before it trains, with everything that is known by then."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from tasks.foundation.digests import canonical_json
from tasks.foundation.values import Value
from tasks.registry.lineage import code_state, lineage_tags
from tasks.registry.values import CodeState
from tasks.tracking import Run, RunRef
from tasks.training.engines import engine_name
from tasks.training.values import Cell


class Context(Value):
    """What a comparison's runs have in common."""

    experiment: str
    """MLflow experiment."""
    settings: dict[str, Any]
    """The whole experiment as plain data, for the record only."""
    code: CodeState
    flow_run_url: str = ""
    """Prefect's page of the flow run."""


def context(experiment: str, settings: Mapping[str, Any], flow_run_url: str) -> Context:
    """The context of this process: which code it is."""
    return Context(experiment=experiment, settings=dict(settings), code=code_state(), flow_run_url=flow_run_url)


def describe_run(ref: RunRef, shared: Context) -> None:
    """Resolved settings, environment and code state of a run, as artifacts and tags."""
    run = Run(ref)
    tags = {"tuneline.code": shared.code.label, "tuneline.prefect": shared.flow_run_url}
    run.set_tags({name: text for name, text in tags.items() if text})
    run.log_text(canonical_json(shared.settings), "configuration/experiment.json")
    run.log_text(environment(), "configuration/environment.txt")
    run.log_text(shared.code.model_dump_json(indent=2), "configuration/code.json")


def describe_cell(cell: Cell, ref: RunRef, shared: Context) -> None:
    """Flat parameters (`method.r`, `training.learning_rate`, …) and the tags by which cells are found."""
    run = Run(ref)
    sections = {name: value for name, value in shared.settings.items() if name not in ("methods", "training", "name")}
    training = cell.training.model_dump(mode="json") | {
        name: cell.method[name] for name in ("learning_rate", "weight_decay") if cell.method.get(name) is not None
    }
    run.log_params(sections | {"method": cell.method, "training": training, "seed": cell.seed})
    run.set_tags(
        {
            "tuneline.cell": cell.fingerprint,
            "tuneline.label": cell.label,
            "tuneline.method": str(cell.method["kind"]),
            "tuneline.seed": str(cell.seed),
            "tuneline.base_digest": cell.base.digest,
        }
    )
    run.set_tags(lineage_tags(cell.sources))
    if cell.trains:
        layout = cell.layout
        gang = {"engine": engine_name(layout), "world_size": layout.ranks, "nodes": layout.nodes}
        run.set_tags({f"tuneline.{name}": str(value) for name, value in gang.items()})
    if cell.adopted:
        run.set_tags(
            {
                "tuneline.resumed_from_world_size": str(cell.adopted.ranks),
                "tuneline.promise": "equal within a tolerance, not bit for bit",
            }
        )


@cache
def environment() -> str:
    """Interpreter, platform and every installed distribution, as pip would pin it."""
    named = {str(dist.metadata["Name"]): dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    pins = sorted((f"{name}=={version}" for name, version in named.items()), key=str.lower)
    return "\n".join([f"# python {sys.version.split()[0]} on {platform.platform()}", *pins, ""])
