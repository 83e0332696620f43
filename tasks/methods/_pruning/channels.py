"""Inner channels of feed-forward blocks: which there are in each architecture, and how some of them are taken out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tasks.foundation.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


class FeedForward(NamedTuple):
    """Where a feed-forward block keeps its inner channels."""

    inward: tuple[str, ...]
    """Layers that make the channels: one output each."""
    outward: str
    """The layer that reads them."""
    setting: str
    """Their number, in config.json."""
    parts: int = 1
    """Outputs of an inward layer for each channel: 2 where gate and up are one layer, one behind the other."""


_GATED: Final = FeedForward(("gate_proj", "up_proj"), "down_proj", "intermediate_size")
_FUSED: Final = FeedForward(("gate_up_proj",), "down_proj", "intermediate_size", parts=2)
FAMILIES: Final[Mapping[str, FeedForward]] = MappingProxyType(
    dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "smollm3", "granite"), _GATED
    )
    | dict.fromkeys(("phi3", "glm", "glm4"), _FUSED)
    | {
        "gpt2": FeedForward(("c_fc",), "c_proj", "n_inner"),
        "gpt_neox": FeedForward(("dense_h_to_4h",), "dense_4h_to_h", "intermediate_size"),
        "opt": FeedForward(("fc1",), "fc2", "ffn_dim"),
        "phi": FeedForward(("fc1",), "fc2", "intermediate_size"),
    }
)
"""`model_type` -> its feed-forward. BLOOM is not here: its config.json has no room for another width."""


def feed_forward(model_type: str, where: str) -> FeedForward:
    """The feed-forward of an architecture.

    Raises:
        ConfigError: it is not known, by name.
    """
    if model_type not in FAMILIES:
        raise ConfigError(
            f"structured pruning does not know the feed-forward of {model_type!r}",
            where=where,
            allowed=", ".join(FAMILIES),
            fix="Set structure: unstructured, which prunes any model",
        )
    return FAMILIES[model_type]


def remove_channels(model: nn.Module, amount: float, where: str) -> int:
    """Take the share `amount` of channels of smallest norm out of every block; how many each of them keeps.

    A channel's norm is the L2 norm over all weights that only it uses: its rows (and biases) inward, its column
    outward, together. The same number stays in every block, since config.json knows one.

    Raises:
        ConfigError: the architecture is not known.
        ModelError: the model is not built like others of its architecture.
    """
    family = feed_forward(model.config.model_type, where)
    blocks = [module for module in model.modules() if _is_block(module, family)]
    if len(blocks) != model.config.num_hidden_layers:
        raise ModelError(
            f"{len(blocks)} feed-forward blocks in {model.config.num_hidden_layers} layers",
            where=where,
            fix="Set structure: unstructured",
        )
    width = _width(blocks[0], family)
    kept = max(1, width - round(amount * width))
    for block in blocks:
        _narrow(block, family, kept)
    setattr(model.config, family.setting, kept)
    return kept


def _is_block(module: nn.Module, family: FeedForward) -> bool:
    children = dict(module.named_children())
    return all(name in children for name in (*family.inward, family.outward))


def _width(block: nn.Module, family: FeedForward) -> int:
    layer = block.get_submodule(family.outward)
    return int(layer.weight.shape[_side(layer, outputs=False)])


def _narrow(block: nn.Module, family: FeedForward, kept: int) -> None:
    import torch

    inward = [block.get_submodule(name) for name in family.inward]
    outward = block.get_submodule(family.outward)
    strongest = torch.topk(_squares(inward, outward, family.parts), kept).indices.sort().values
    width = _width(block, family)
    rows = torch.cat([strongest + part * width for part in range(family.parts)])
    for layer in inward:
        _keep(layer, rows, outputs=True)
    _keep(outward, strongest, outputs=False)


def _squares(inward: list[Any], outward: Any, parts: int) -> Tensor:
    """Squared norm of each channel [width], float32."""
    import torch

    def summed(tensor: Tensor, side: int) -> Tensor:
        squared = tensor.detach().float().square()
        return squared.sum(dim=1 - side) if squared.dim() > 1 else squared

    total = summed(outward.weight, _side(outward, outputs=False))
    for layer in inward:
        tensors = [layer.weight, *([layer.bias] if layer.bias is not None else [])]
        rows = torch.stack([summed(tensor, _side(layer, outputs=True)) for tensor in tensors]).sum(dim=0)
        total = total + rows.view(parts, -1).sum(dim=0)
    return total


def _side(layer: nn.Module, *, outputs: bool) -> int:
    """The dimension of a weight that counts outputs or inputs; GPT-2's Conv1D stores the transpose."""
    from torch.nn import Linear

    return int(isinstance(layer, Linear) != outputs)


def _keep(layer: Any, channels: Tensor, *, outputs: bool) -> None:
    """Leave only these outputs or inputs of a layer, in new parameters: the old ones may belong to a teacher too."""
    from torch import nn

    side = _side(layer, outputs=outputs)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(side, channels), requires_grad=False)
    if outputs and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[channels], requires_grad=False)
    for name in ("out_features", "nf") if outputs else ("in_features", "nx"):
        if hasattr(layer, name):
            setattr(layer, name, len(channels))
