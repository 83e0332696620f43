"""Load the base model and its tokenizer: local files only, safetensors only, no foreign code."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tasks.foundation.errors import ModelError, ResourceError
from tasks.models.values import BaseModel, Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_NO_ATTENTION = "does not support an attention implementation"
"""How transformers says that an architecture has no such kernel, and asks to file a request."""


def pick_device() -> str:
    """`cuda:<current>`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_tokenizer(base: BaseModel) -> PreTrainedTokenizerBase:
    """The base's tokenizer. One without a padding token pads with its end token: masks are explicit everywhere, and a
    new token would change the embedding.

    Raises:
        ModelError: it cannot be read, has no end token, or knows more tokens than the embedding has rows.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"the tokenizer cannot be read: {_first_line(error)}", where=str(base.path)) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end token, so no answer could end",
            where=str(base.path / "tokenizer_config.json"),
            fix="Set eos_token there",
        )
    if len(tokenizer) > base.facts.vocab_size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, the embedding {base.facts.vocab_size} rows: no pair",
            where=str(base.path),
            fix="Take the tokenizer that belongs to these weights",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    base: BaseModel, *, quantization: Quantization | None = None, device: str = "cpu", shared: bool = False
) -> PreTrainedModel:
    """The base model in eval mode on one device.

    Args:
        base: where it lies.
        quantization: of its linear layers.
        device: on which it computes.
        shared: an engine shares the weights among ranks and puts them there itself.

    Raises:
        ModelError: the weights do not fit the configuration; nothing is ever initialised at random.
        ResourceError: it does not fit into the device's memory.
    """
    options: dict[str, Any] = {}
    if quantization is not None:
        options["quantization_config"] = _quantization_config(quantization, device)
    if not shared and (quantization is not None or device != "cpu"):
        options["device_map"] = {"": device}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            base.path,
            dtype=compute_dtype(base, device),
            attn_implementation=base.attn_implementation,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{base.name} does not fit into the memory of {device}", where="model", fix="Take a smaller dtype or qlora"
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"the model cannot be loaded: {_first_line(error)}",
            where=str(base.path),
            fix="Set model.attn_implementation: eager" if _NO_ATTENTION in str(error) else "",
        ) from error
    _refuse_partial(base, report)
    _keep_quantized_layout(model)
    return model.eval()


def compute_dtype(base: BaseModel, device: str) -> torch.dtype:
    """`model.dtype`; `auto` is the checkpoint's own dtype on an accelerator and float32 on CPU."""
    if base.dtype != "auto":
        return getattr(torch, base.dtype)
    return torch.float32 if device == "cpu" else getattr(torch, base.facts.dtype)


def _quantization_config(quantization: Quantization, device: str) -> BitsAndBytesConfig:
    """Every choice explicit: the library's own defaults are fp4 without double quantisation."""
    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.quant_type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=torch.float32 if device == "cpu" else torch.bfloat16,
    )


def _keep_quantized_layout(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    The first forward pass in eval mode would repack them for good: wrong for sides that are no multiple of 32 or 64,
    other numbers than on other CPUs, and no gradient through the layer in later training steps (seen in 0.50.2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _refuse_partial(base: BaseModel, report: dict[str, Any]) -> None:
    problems = [f"{name} is not in the weights" for name in sorted(report["missing_keys"])]
    problems += [
        f"{name} has the shape {list(stored)} in the weights, {list(wanted)} by config.json"
        for name, stored, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ModelError(
            problems[0] + more, where=str(base.path), fix="Take weights and config.json from the same revision"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
