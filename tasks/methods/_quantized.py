"""How the base is held while a method trains beside it: the method's own wish, or the model's setting."""

from __future__ import annotations

import importlib.util

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Method
from tasks.models.values import Quantization


def base_quantization(method: Method, own: Quantization | None) -> Quantization | None:
    """What a base with `model.quantization: own` is loaded with; None leaves it in its float dtype."""
    return method.quantization() or own


def refuse_quantization(method: Method, own: Quantization | None) -> None:
    """What a method cannot do on a quantised base, before anything is loaded.

    Raises:
        ConfigError: with the reason and the way out.
    """
    wanted = method.quantization()
    if wanted and own and wanted.name != own.name:
        raise ConfigError(
            f"{method.kind} trains on a {wanted.name} base, and model.quantization is {own.name}",
            where=f"methods[{method.label}]",
            fix="Take {kind: lora}, which goes with every model.quantization, or remove model.quantization",
        )
    quantization = base_quantization(method, own)
    if quantization is None or method.holds == "nothing":
        return
    if reason := method.refuses_quantization(quantization):
        raise ConfigError(
            f"{method.kind} cannot train on a base in {quantization.name}: {reason}",
            where=f"methods[{method.label}]",
            fix="Remove model.quantization, or take this method out",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "a quantised base needs bitsandbytes, which is not installed (it exists for Linux only)",
            where="model.quantization" if own else f"methods[{method.label}]",
            fix="Take {kind: lora} on a float base, or install bitsandbytes",
        )
