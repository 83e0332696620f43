"""Parameters as engines hold them - whole on every rank, or a part on each - and what ranks must know of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
from torch import distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments

from tasks.foundation.errors import IntegrityError


def anywhere(condition: bool, device: torch.device) -> bool:
    """True on every rank where it is true on any. All ranks must call it."""
    if not distributed.is_initialized():
        return condition
    flag = torch.tensor(int(condition), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())


def named_anywhere(given: Sequence[set[str]], model: nn.Module) -> list[set[str]]:
    """Each set of parameter names, joined with that of the other ranks. All ranks must call it."""
    if not distributed.is_initialized():
        return list(given)
    names = [name for name, _ in model.named_parameters()]
    device = next(model.parameters()).device
    flags = torch.tensor([[name in names_here for name in names] for names_here in given], dtype=torch.int32)
    flags = flags.to(device)
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return [{name for name, flag in zip(names, row, strict=True) if flag} for row in flags.tolist()]


def barrier() -> None:
    """Wait for all ranks."""
    if distributed.is_initialized():
        distributed.barrier()


def share_on_cpu(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """Have accelerate use FSDP2 over gloo: it drops the choice without a word where it finds no accelerator.

    torch's `fully_shard`, which does the work, knows no such limit.
    """
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a parameter or of its gradient: all of it, its share, or (ZeRO-3) its flat share."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    part: torch.Tensor = getattr(tensor, "ds_tensor", tensor)
    return part


def is_held(parameter: nn.Parameter) -> bool:
    """True where DeepSpeed's optimiser has this parameter; its gradient is nowhere to be seen after the step."""
    sharing = getattr(parameter, "_z3_optimizer", None)
    if sharing is not None:  # every parameter of the model knows it
        return sharing.get_param_id(parameter) in sharing.grad_position
    return hasattr(parameter, "_hp_mapping")


def is_of_deepspeed(optimizer: Any) -> bool:
    """True for what accelerate puts around DeepSpeed's optimiser, or around the plain one of ZeRO-0 in float32."""
    return isinstance(optimizer, DeepSpeedOptimizerWrapper)


def element_count(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter; a 4-bit tensor packs two into each byte."""
    if hasattr(parameter, "quant_state"):
        return int(parameter.quant_state.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def unlinked_masters(optimizer: Any) -> dict[int, torch.Tensor]:
    """Parameter's id -> its float32 master, where DeepSpeed (ZeRO-0 in 16 bits) keeps them in lists of its own."""
    if not hasattr(optimizer, "fp32_groups"):
        return {}
    pairs = zip(chain.from_iterable(optimizer.fp16_groups), chain.from_iterable(optimizer.fp32_groups), strict=True)
    return {id(parameter): master for parameter, master in pairs}


def gather(
    model: nn.Module, *, frozen: bool, masters: Mapping[int, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The whole tensors by full name, on the CPU of rank 0; empty on the others. All ranks must call it.

    One parameter after the other, so no device ever holds more than one of them whole. Where an engine trains float32
    masters of 16-bit weights, the masters are what comes back.

    Args:
        model: the unwrapped model.
        frozen: False gives what trains only; True every parameter, and the persistent buffers.
        masters: see `unlinked_masters`.

    Raises:
        IntegrityError: an engine hands back but a part of a tensor, or nothing.
    """
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or frozen:
            whole = (masters or {}).get(id(parameter))
            whole = _whole(parameter) if whole is None else whole
            _refuse_part(name, whole, parameter)
            if first:
                found[name] = whole.detach().to("cpu", copy=True).contiguous()
    if first and frozen:
        kept = model.state_dict().keys()
        found |= {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in kept}
    return found


def _refuse_part(name: str, whole: torch.Tensor, parameter: nn.Parameter) -> None:
    """Adapters saved as empty tensors under ZeRO-3 are a known failure elsewhere."""
    expected = whole.numel() if hasattr(parameter, "quant_state") else element_count(parameter)
    if whole.numel() != expected:
        raise IntegrityError(
            f"{name} has {whole.numel()} of its {expected} values: the engine did not hand back the whole tensor",
            fix="Go on from the last checkpoint under distributed.strategy: ddp",
        )


def scatter(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put whole tensors, which every rank has, into the parameters of that name; each rank keeps its part."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:
                local_part(parameter).copy_(_part_like(parameter, tensors[name]))


def parts_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state in which shared tensors are this rank's parts, plain tensors that can be pickled."""
    whole = optimizer.state_dict()
    states = {
        number: {name: local_part(value) if torch.is_tensor(value) else value for name, value in state.items()}
        for number, state in whole["state"].items()
    }
    return {"state": states, "param_groups": whole["param_groups"]}


def share_again(optimizer: torch.optim.Optimizer) -> None:
    """Make the parts in an optimiser's state shared tensors again, laid out as their parameters are."""
    for parameter, state in optimizer.state.items():
        if isinstance(parameter, DTensor):
            for name, part in state.items():
                if torch.is_tensor(part) and part.shape == parameter.to_local().shape:
                    state[name] = DTensor.from_local(
                        part,
                        parameter.device_mesh,
                        parameter.placements,
                        run_check=False,
                        shape=parameter.shape,
                        stride=parameter.stride(),
                    )


def _part_like(parameter: nn.Parameter, whole: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        placed = whole.to(parameter.device_mesh.device_type)
        shared = distribute_tensor(placed, parameter.device_mesh, parameter.placements, src_data_rank=None)
        return shared.to_local()
    return whole


def _whole(parameter: nn.Parameter) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        return parameter.full_tensor()
    master = _deepspeed_master(parameter)
    if master is not None:
        return master
    return _unpartitioned(parameter)


def _deepspeed_master(parameter: nn.Parameter) -> torch.Tensor | None:
    """The float32 values that DeepSpeed's optimiser updates, where the parameter itself is rounded."""
    if parameter.dtype == torch.float32 or not is_held(parameter):
        return None
    from deepspeed.utils import safe_get_full_fp32_param

    master: torch.Tensor | None = safe_get_full_fp32_param(parameter)
    return master


def _unpartitioned(parameter: nn.Parameter) -> torch.Tensor:
    """A parameter under ZeRO-3 that no optimiser holds, or any that was never partitioned."""
    if not hasattr(parameter, "ds_id"):
        return parameter
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()
