"""Networks that are too large for one device: each process keeps a part of every weight, gradient and moment of the optimiser
(FSDP2, Zhao et al. 2023, arXiv 2304.11277), and computes backbones' activations again in the backward pass (Chen et al. 2016,
arXiv 1604.06174). The numbers are DDP's. It works for methods that call their networks and have no parameters outside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from backbones.base import Backbone
from common.distributed import world_size
from common.errors import UsageError


def recompute_activations(method: nn.Module) -> None:
    """Let the blocks of every backbone keep only their inputs for the backward pass, except blocks with BatchNorm, which would
    count a batch twice in their running statistics."""
    for backbone in networks_of(method):
        for block in blocks_of(backbone):
            if not any(isinstance(m, _BatchNorm) for m in block.modules()):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def shard(method: nn.Module, device: torch.device) -> None:
    """Shard a method's parameters over the processes, in place, into DTensors of the same names. Raises UsageError for a parameter
    outside the method's networks."""
    networks = list(networks_of(method))
    inside = {parameter for network in networks for parameter in network.parameters()}
    for name, parameter in method.named_parameters():
        if parameter not in inside:
            raise UsageError(
                f"--strategy fsdp: the parameter {name} is in no network of the method; give --strategy ddp"
            )
    mesh = init_device_mesh(device.type, (world_size(),))
    for network in networks:
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP refuses ResNets' channels-last weights
        # Methods call their networks one by one, so each is gathered by itself. Resharding follows the forward pass, so that
        # weights are in parts whenever they change: a teacher has no backward pass.
        for module in (*blocks_of(network), network):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
            if device.type == "cpu":  # gloo has no mean
                module.set_force_sum_reduction_for_comms(True)


def networks_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules with parameters that are backbones or contain no backbone: backbones, heads, predictors."""
    for child in module.children():
        if isinstance(child, Backbone) or not any(isinstance(part, Backbone) for part in child.modules()):
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from networks_of(child)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Modules with parameters in a backbone's outermost sequences: the blocks of a ViT or ResNet. A head has no blocks."""
    if not isinstance(network, Backbone):
        return []
    blocks: list[nn.Module] = []
    pending = list(network.children())
    while pending:
        module = pending.pop(0)
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            blocks += [child for child in module if any(True for _ in child.parameters())]
        else:
            pending += module.children()
    return blocks


def weights_in_parts(method: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shard a whole state dict as the method's tensors are."""
    own = method.state_dict()
    return {name: _in_parts(value, own.get(name)) for name, value in weights.items()}


def moments_in_parts(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Shard an optimiser's whole state dict as its parameters are. (torch numbers parameters through all groups.)"""
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    moments = {
        number: {name: _in_parts(value, parameters.get(number)) for name, value in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": moments}


def _in_parts(value: Any, like: Tensor | None) -> Any:
    """This process's part of a tensor; a value of another shape than ``like`` (a count of steps) stays whole."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
