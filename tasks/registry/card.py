"""The model card: what a stranger needs to use the model, and to find out where it came from."""

from __future__ import annotations

from pathlib import Path

from tasks.methods import Candidate, parse_method, without_references
from tasks.models import BaseModel
from tasks.registry.shipping import is_plain_peft
from tasks.registry.values import RegisterRequest

LONGEST_DESCRIPTION = 4500
"""MLflow's database keeps 5000 characters."""


def model_card(request: RegisterRequest) -> str:
    """Markdown. It names content only (no time, no path), so that the same winner gives the same card."""
    comparison = request.comparison.read_text(encoding="utf-8") if request.comparison else ""
    return "\n".join([summary(request), *_loading(request), *_limits(request), comparison.strip(), ""])


def description(request: RegisterRequest) -> str:
    """The card without the comparison, short enough for the registry."""
    return "\n".join([summary(request), *_limits(request)])[:LONGEST_DESCRIPTION]


def summary(request: RegisterRequest) -> str:
    """What it is, what it was made from, and its scores."""
    candidate, base = request.candidate, request.candidate.base
    kind = candidate.method.get("kind")
    form = "whole model" if candidate.holds == "model" else "base model with adapter"
    named = without_references(candidate.method, request.sources)
    settings = ", ".join(f"{name} {value}" for name, value in sorted(named.items()) if name != "kind")
    facts = {
        "base model": f"{public_name(base)} {base.revision}".strip(),
        **({"vocabulary": f"the base's, and {base.new_tokens} tokens more"} if base.new_tokens else {}),
        "base digest": base.digest,
        "method": f"{kind}" + (f" ({settings})" if settings else ""),
        **{name: f"{source.title} (sha256 {source.digest})" for name, source in request.sources.items()},
        "form": form,
        "data digest": request.data_digest,
        "evaluation rows": request.rows_digest,
        "MLflow run": request.run_id,
    }
    lines = [f"# {request.model_name}", "", f"`{public_name(base)}` tuned with {kind} (cell `{request.label}`).", ""]
    lines += [*_table("what", "value", facts), ""]
    if request.metrics:
        lines += [
            "## Scores",
            "",
            *_table("metric", "value", {name: f"{v:.6g}" for name, v in request.metrics.items()}),
            "",
        ]
    return "\n".join(lines)


def _table(left: str, right: str, facts: dict[str, str]) -> list[str]:
    rows = (f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items())
    return [f"| {left} | {right} |", "| --- | --- |", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def public_name(base: BaseModel) -> str:
    """The base as others know it: a hub id or `embedded:…`; of a local folder the last part alone."""
    return base.name if base.revision or ":" in base.name else Path(base.name).name


def _loading(request: RegisterRequest) -> list[str]:
    uri = f"models:/{request.model_name}@{request.alias}"
    return [
        "## How to load it",
        "",
        "```python",
        "import mlflow, pandas",
        f'model = mlflow.pyfunc.load_model("{uri}")',
        'model.predict(pandas.DataFrame({"prompt": ["…"]}), params={"max_new_tokens": 64})',
        "```",
        "",
        f"`mlflow models serve -m {uri} --env-manager local` answers the same over HTTP.",
        f"{_weights(request.candidate)} `files.json` holds the sha256 of every file.",
        "",
    ]


def _weights(candidate: Candidate) -> str:
    if candidate.holds == "model":
        return "`artifacts/package/model/` is a plain safetensors folder for transformers;"
    if candidate.weights is not None and is_plain_peft(parse_method(candidate.method).loads_with(), candidate.weights):
        return "`artifacts/package/adapter/` is a plain adapter folder for PEFT;"
    return (
        "`artifacts/package/adapter/` holds the adapter (safetensors and JSON), which PEFT alone cannot load; the code "
        "that does lies in `artifacts/package/code/`;"
    )


def _limits(request: RegisterRequest) -> list[str]:
    return [
        "## Limits",
        "",
        f"- Answers are greedy, at most {request.max_new_tokens} new tokens unless `max_new_tokens` says otherwise.",
        "- One user message per prompt, with a system message or without; earlier turns are not taken.",
        "- Prompts are rendered as in training; texts unlike the training data were not evaluated.",
        "- The last bits of a probability depend on hardware and library versions; `requirements.txt` pins the latter.",
        "- Licence: to be filled in by the owner; it has to respect those of the base model and of the data.",
        "",
    ]
