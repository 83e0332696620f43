"""Short ways to write examples."""

from __future__ import annotations

from tasks.metrics import Example


def said(prediction: str, *references: str, prompt: str = "", name: str = "q") -> Example:
    return Example(id=name, prompt=prompt, references=references, prediction=prediction)


def lost(loss_sum: float, tokens: int) -> Example:
    return Example(id="r", prompt="", references=("x",), loss_sum=loss_sum, tokens=tokens)


def chose(chosen: str, label: str) -> Example:
    return Example(id="q", prompt="", references=(label,), label=label, chosen=chosen)
