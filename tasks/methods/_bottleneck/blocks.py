"""What we know of the blocks of each architecture: where its attention and its feed-forward network begin and end.

An adapter that is put in the wrong place trains and is wrong, so nothing is guessed: an architecture that is not in the
table is refused by name. Quantised linear layers have the names of the float ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Method
from tasks.methods._values import Conditions
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import nn


class BlockSites(NamedTuple):
    """Modules of an architecture; all but the first are named as seen from a block."""

    blocks: str
    """The list of blocks, as seen from the model."""
    attention_output: str
    """The projection whose output, of width d, the attention adds to the residual stream."""
    ffn_input: str
    """The linear layer (where there are two, the first) whose input, of width d, is that of the feed-forward u."""
    ffn_output: str
    """The linear layer whose output, of width d, is that of the feed-forward network."""


_LLAMA = BlockSites("model.layers", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
_FUSED_GATE = BlockSites("model.layers", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")

SITES: Mapping[str, BlockSites] = {
    "bloom": BlockSites("transformer.h", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "glm": _FUSED_GATE,
    "glm4": _FUSED_GATE,
    "gpt2": BlockSites("transformer.h", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": BlockSites("gpt_neox.layers", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "opt": BlockSites("model.decoder.layers", "self_attn.out_proj", "fc1", "fc2"),
    "phi": BlockSites("model.layers", "self_attn.dense", "mlp.fc1", "mlp.fc2"),
    "phi3": _FUSED_GATE,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""`model_type` of config.json -> its sites; each is held against the library's own class in the tests."""

FAMILIES = ", ".join(SITES)


class BlockMethod(Method):
    """A method that puts modules into the blocks, whose places it must know."""

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        sites_of(facts.model_type, f"methods[{self.label}]")


def sites_of(model_type: str, where: str) -> BlockSites:
    """The sites of an architecture.

    Raises:
        ConfigError: nobody has said yet where its blocks begin and end.
    """
    if model_type not in SITES:
        raise ConfigError(
            f"the blocks of {model_type or 'this model'} are not known, so an adapter would have to guess its place",
            where=where,
            allowed=FAMILIES,
            fix="Take {kind: lora}, which goes on any linear layer, or another base",
        )
    return SITES[model_type]


def blocks_of(model: nn.Module, where: str) -> list[nn.Module]:
    """The model's blocks, the one next to the input first.

    Raises:
        ConfigError: the architecture is not known, or this model goes past the modules of its blocks.
    """
    config = model.config
    sites = sites_of(str(config.model_type), where)
    if getattr(config, "slow_but_exact", False) and int(getattr(config, "pretraining_tp", 1)) > 1:
        raise ConfigError(
            "this BLOOM multiplies slices of its weights by hand (slow_but_exact), past the layers an adapter hangs on",
            where=where,
            fix="Set slow_but_exact: false in its config.json",
        )
    return list(model.get_submodule(sites.blocks).children())
