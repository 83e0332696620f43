"""AdapterFusion: attention over the answers of several frozen task adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._bottleneck.blocks import FAMILIES, BlockMethod, sites_of
from tasks.methods._bottleneck.shape import BottleneckShape
from tasks.methods._own import OwnAdapter
from tasks.methods._own_folder import adapter_of, fill, read_adapter
from tasks.methods._rates import rate_between
from tasks.methods._source import Source
from tasks.methods._values import INIT_FROM, NOTHING, MethodInfo, StepLoss, Supplies, Window
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.methods._bottleneck.fusion import FusionShape, TaskAdapter

_FROZEN = "adapters."
"""How the names of the task adapters' tensors begin in the saved file: `adapters.<n>.<block>.<tensor>`."""
_USUAL_RANK = 64


class AdapterFusion(BlockMethod, OwnAdapter):
    """Settings of `adapter_fusion`: the second stage. The first is `kind: adapter, variant: pfeiffer` on each task.

    In each block z_n = A_n(s) is what adapter n answers to the block's output s, h the answer of the feed-forward
    network, and out = s + sum_n softmax_n((h Q)^T (z_n K)) z_n V. What is saved holds the adapters too.
    """

    example: ClassVar[Mapping[str, Any]] = {"adapters": ["RUN_ONE", "RUN_TWO"]}
    info: ClassVar[MethodInfo] = MethodInfo(
        trains="Q, K, V per block: attention over the answers of two or more frozen task adapters",
        paper="2005.00247",
        holds="adapter",
        mergeable=False,
        memory="b N + 4 (task adapters) + 16 n, b bytes per base weight, n = 3 d^2 L; low_rank r: 4 d r L; no_value: "
        "2 d^2 L",
        quantized_base=True,
        families=FAMILIES,
        traps=(
            "3 d^2 per block is 793 M on a model of 3 B: form: low_rank there",
            "the adapters must be of the variant pfeiffer, on this base, in the same blocks",
        ),
    )

    kind: Literal["adapter_fusion"] = "adapter_fusion"
    adapters: tuple[str, ...]
    """Two or more trained adapters: run ids, `models:/NAME/VERSION`, `models:/NAME@ALIAS`, hub ids with a commit, or
    folders."""
    names: tuple[str, ...] = ()
    """What the attention map calls them; `adapter_0`, `adapter_1`, … when absent."""
    form: Literal["full", "low_rank", "no_value"] = "full"
    """`full`: Q, K, V of d x d; `low_rank`: Q, K of d x rank and V = I + d x rank x d; `no_value`: V = I, untrained."""
    rank: int | None = Field(default=None, gt=0)
    """Of `low_rank`; 64, at most d, when absent."""
    value_regularisation: float = Field(default=0.01, ge=0)
    """Factor on the sum of ||V - I||^2 over the blocks, which is added to the loss and not reported in it."""

    @field_validator("adapters")
    @classmethod
    def _enough(cls, adapters: tuple[str, ...]) -> tuple[str, ...]:
        if len(adapters) < 2:
            raise ValueError(
                f"fusion composes two or more adapters, there is {len(adapters)}: name another, or go on training the "
                "one with {kind: adapter, init_from: …}"
            )
        return adapters

    @model_validator(mode="after")
    def _own_settings(self) -> AdapterFusion:
        if self.names and len(self.names) != len(self.adapters):
            raise ValueError(f"{len(self.names)} names for {len(self.adapters)} adapters")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names: each must be another one")
        if self.rank and self.form != "low_rank":
            raise ValueError("rank belongs to form: low_rank")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=1e-2, large=5e-5)

    def sources(self) -> Mapping[str, str]:
        return {**super().sources(), **{f"adapters.{n}": reference for n, reference in enumerate(self.adapters)}}

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        self._task_adapters(skeleton, supplies)
        super().check_modules(skeleton, supplies)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        """Freeze the base, read the adapters, put them and the attention into the blocks.

        Raises:
            ConfigError: an adapter is of another kind, another base or in other blocks.
        """
        from tasks.methods._bottleneck.fusion import fuse

        adapters = self._task_adapters(model, supplies)
        model.requires_grad_(False)
        fuse(model, adapters, self._shape(model), f"methods[{self.label}].adapters")
        model.task_adapters = adapters  # the whole tensors: of those in the blocks an engine may leave but a part
        return model

    def _task_adapters(self, model: nn.Module, supplies: Supplies) -> list[TaskAdapter]:
        """The adapters that `adapters` names, which must be of one kind, one base and in the same blocks."""
        where = f"methods[{self.label}].adapters"
        found = [supplies.sources[f"adapters.{n}"] for n in range(len(self.adapters))]
        _refuse_bases(found, where)
        adapters = [_task_adapter(source, model, f"{where}.{n}") for n, source in enumerate(found)]
        _refuse_blocks(found, adapters, where)
        return adapters

    def start_from(self, model: nn.Module, source: Source) -> None:
        where = f"methods[{self.label}].{INIT_FROM}"
        saved, tensors = adapter_of(source, model, where)
        if saved.kind != self.kind or saved.parts["form"] != self.parts(model)["form"]:
            raise ConfigError(
                f"{source.reference} is {saved.kind} of the form {saved.parts.get('form')}, this is "
                f"{self.parts(model)['form']}",
                where=where,
                fix="Take the settings of the earlier run, or start anew without init_from",
            )
        fill(model, {name: part for name, part in tensors.items() if not name.startswith(_FROZEN)}, where)

    def training_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], window: Window) -> StepLoss | None:
        """Cross-entropy, and beside it the penalty that keeps V near the identity."""
        if self.form == "no_value" or not self.value_regularisation:
            return None
        from tasks.methods._bottleneck.fusion import distance_of
        from tasks.methods._loss import answer_logits, cross_entropy_share

        share = cross_entropy_share(answer_logits(model, inputs), inputs["labels"], window)
        penalty = self.value_regularisation * distance_of(model)
        return StepLoss(total=share + penalty / window.micro_batches, cross_entropy=share)

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write attention and adapters: loading needs none of the sources."""
        frozen = {
            f"{_FROZEN}{n}.{block}.{name}": tensor
            for n, adapter in enumerate(model.task_adapters)
            for (block, name), tensor in adapter.tensors.items()
        }
        super().save(model, folder, {**tensors, **frozen})

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """Build what the folder describes and fill it.

        Raises:
            IntegrityError: the folder is incomplete or belongs to another base.
        """
        from tasks.methods._bottleneck.fusion import FusionShape, TaskAdapter, fuse

        saved, tensors = read_adapter(folder, base)
        adapters = [
            TaskAdapter(BottleneckShape.model_validate(part["shape"]), _by_block(tensors, f"{_FROZEN}{n}."))
            for n, part in enumerate(saved.parts["adapters"])
        ]
        base.requires_grad_(False)
        fuse(base, adapters, FusionShape(**saved.parts["form"]), str(folder))
        fill(base, {name: part for name, part in tensors.items() if not name.startswith(_FROZEN)}, str(folder))
        base.adapter_names = [part["name"] for part in saved.parts["adapters"]]
        return base.requires_grad_(False).eval()

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        """The attention map: `fusion/layer_3/NAME` -> mean weight of that adapter over all real tokens."""
        from tasks.methods._bottleneck.fusion import attention_map

        names: list[str] = model.adapter_names
        return {
            f"fusion/layer_{index}/{name}": weight
            for index, weights in attention_map(model, batches, len(names)).items()
            for name, weight in zip(names, weights, strict=True)
        }

    def _shape(self, model: nn.Module) -> FusionShape:
        from tasks.methods._bottleneck.fusion import FusionShape

        rank = self.rank or min(_USUAL_RANK, int(model.config.hidden_size))
        return FusionShape(rank=rank if self.form == "low_rank" else None, value=self.form != "no_value")

    def parts(self, model: nn.Module) -> dict[str, Any]:
        names = self.names or tuple(f"adapter_{n}" for n in range(len(self.adapters)))
        return {
            "form": self._shape(model)._asdict(),
            "adapters": [
                {"name": name, "shape": adapter.shape.model_dump(mode="json")}
                for name, adapter in zip(names, model.task_adapters, strict=True)
            ],
        }


def _task_adapter(source: Source, model: nn.Module, where: str) -> TaskAdapter:
    """A source as a pfeiffer adapter without anything beside its bottlenecks."""
    from tasks.methods._bottleneck.fusion import TaskAdapter

    saved, tensors = adapter_of(source, model, where)
    fix = "Train {kind: adapter, variant: pfeiffer} on each task and name those runs"
    if "variant" not in saved.parts:
        raise ConfigError(f"{source.reference} is {saved.kind}, not one bottleneck adapter", where=where, fix=fix)
    shape = BottleneckShape.model_validate(saved.parts)
    if shape.variant != "pfeiffer" or shape.layer_norms:
        what = f"of the variant {shape.variant}" if shape.variant != "pfeiffer" else "one with layer norms of its own"
        raise ConfigError(
            f"{source.reference} is {what}: its answer is no function of the block's output alone", where=where, fix=fix
        )
    blocks = f"{sites_of(saved.model_type, where).blocks}."
    return TaskAdapter(shape, _by_block({n.replace(".adapter.ffn.", "."): part for n, part in tensors.items()}, blocks))


def _by_block(tensors: Mapping[str, Tensor], prefix: str) -> dict[tuple[int, str], Tensor]:
    """`<prefix>3.down.weight` -> (3, `down.weight`)."""
    split = {
        name.removeprefix(prefix).partition("."): part for name, part in tensors.items() if name.startswith(prefix)
    }
    return {(int(block), name): part for (block, _, name), part in split.items()}


def _refuse_bases(found: list[Source], where: str) -> None:
    known = {source.base_digest: source.reference for source in found if source.base_digest}
    if len(known) > 1:
        one, other = list(known.values())[:2]
        raise ConfigError(
            f"{one} and {other} were trained on different bases", where=where, fix="Name adapters of one base"
        )


def _refuse_blocks(found: list[Source], adapters: list[TaskAdapter], where: str) -> None:
    first = adapters[0].shape.layers
    for source, adapter in zip(found, adapters, strict=True):
        if adapter.shape.layers != first:
            raise ConfigError(
                f"{found[0].reference} is in the blocks {list(first)}, {source.reference} in "
                f"{list(adapter.shape.layers)}",
                where=where,
                fix="Name adapters with the same layers_to_transform",
            )
