"""MAM (Mix-And-Match): a short prefix for every attention, a parallel adapter for every feed-forward network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.foundation.errors import ConfigError
from tasks.methods._bottleneck.blocks import FAMILIES
from tasks.methods._bottleneck.chosen import ChosenBlocks
from tasks.methods._bottleneck.shape import BottleneckShape, NonLinearity
from tasks.methods._own import OwnAdapter
from tasks.methods._own_folder import describe, fill, read_adapter, write_adapter
from tasks.methods._rates import rate_between
from tasks.methods._source import Source
from tasks.methods._values import INIT_FROM, NOTHING, Conditions, MethodInfo, Supplies
from tasks.methods.prefix_tuning import PrefixTuning
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

_USUAL_SIZE = 512
_PREFIX = "prompt_embeddings"
_TABLE = "prompt_encoder.default.embedding.weight"
_WRAPPER = "base_model."


class MamAdapter(ChosenBlocks, OwnAdapter):
    """Settings of `mam_adapter`: PEFT's prefix tuning and our parallel adapter, trained and saved together.

    The prefix is in every layer, the adapter beside every feed-forward network or those of `layers_to_transform`.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="a prefix of P keys and values in every layer, and a parallel adapter beside every feed-forward network",
        paper="2110.04366",
        holds="adapter",
        mergeable=False,
        memory="b N + 16 n, b bytes per base weight, n = L (2 d m + m + d) + 2 P L d_kv (with projection: + P d + d h "
        "+ 2 L d_kv h)",
        gradient_checkpointing=False,
        quantized_base=True,
        families=FAMILIES,
        traps=(
            "needs the key-value cache: no gradient checkpointing",
            "virtual tokens count against the context",
            "the prefix's projection is not saved: init_from needs prefix_projection: false",
        ),
    )

    kind: Literal["mam_adapter"] = "mam_adapter"
    num_virtual_tokens: int = Field(default=30, gt=0)
    """P, the length of the prefix; it counts against the model's context."""
    prefix_projection: bool = True
    """Train the prefix through an MLP, which is not saved."""
    encoder_hidden_size: int | None = Field(default=None, gt=0)
    """Width of that MLP; the model's hidden size when absent."""
    bottleneck_size: int | None = Field(default=None, gt=0)
    """m of the parallel adapter; 512, at most d, when absent."""
    non_linearity: NonLinearity = "relu"
    """Between the adapter's two matrices."""
    scaling: float = Field(default=4.0, gt=0)
    """Factor s on the adapter's answer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the adapter's m inner activations while training."""

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=1e-2, large=3e-4)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        super().check(facts, conditions)
        self._prefix().check(facts, conditions)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        from tasks.methods._bottleneck.modules import Making, inject

        prefixed = self._prefix().attach(model, supplies)
        where = f"methods[{self.label}]"
        inject(prefixed.get_base_model(), self._shape(model), Making(self.dropout), where)
        return prefixed

    def start_from(self, model: nn.Module, source: Source) -> None:
        where = f"methods[{self.label}].{INIT_FROM}"
        tensors = self.earlier(source, model.get_base_model(), self.parts(model))
        if self.prefix_projection:
            raise ConfigError(
                "the MLP that a prefix trained through is not saved, so it cannot be trained on",
                where=where,
                fix="Set prefix_projection: false, which goes on with the finished prefix",
            )
        _fill(model, tensors, where)

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write the finished prefix and the adapter's tensors into one file."""
        adapter = {name.removeprefix(_WRAPPER): part for name, part in tensors.items() if name.startswith(_WRAPPER)}
        prefix = self._prefix().adapter_tensors(model, tensors)
        description = describe(self.kind, model.get_base_model(), self.parts(model))
        write_adapter(folder, description, {**adapter, **prefix})

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """Build what the folder describes and fill it.

        Raises:
            IntegrityError: the folder is incomplete or belongs to another base.
        """
        from peft import PrefixTuningConfig, get_peft_model

        from tasks.methods._bottleneck.modules import Making, inject

        saved, tensors = read_adapter(folder, base)
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=saved.parts["num_virtual_tokens"], inference_mode=True
        )
        model: nn.Module = get_peft_model(base, config)
        inject(base, BottleneckShape.model_validate(saved.parts["shape"]), Making(), str(folder))
        _fill(model, tensors, str(folder))
        return model.requires_grad_(False).eval()

    def _prefix(self) -> PrefixTuning:
        return PrefixTuning(
            name=self.label,
            num_virtual_tokens=self.num_virtual_tokens,
            prefix_projection=self.prefix_projection,
            encoder_hidden_size=self.encoder_hidden_size,
        )

    def _shape(self, model: nn.Module) -> BottleneckShape:
        width, count = int(model.config.hidden_size), int(model.config.num_hidden_layers)
        return BottleneckShape(
            variant="parallel",
            size=self.bottleneck_size or min(_USUAL_SIZE, width),
            non_linearity=self.non_linearity,
            scaling=self.scaling,
            bias=True,
            layers=self.chosen_layers(count),
            layer_norms=False,
        )

    def parts(self, model: nn.Module) -> dict[str, Any]:
        shape = self._shape(model.get_base_model()).model_dump(mode="json")
        return {"shape": shape, "num_virtual_tokens": self.num_virtual_tokens}


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """The finished prefix into the table of a prefix without projection, the rest into the adapters."""
    named = {_TABLE if name == _PREFIX else f"{_WRAPPER}{name}": part for name, part in tensors.items()}
    model.get_submodule("prompt_encoder").requires_grad_(True)
    fill(model, named, where)
