"""The process group, in the few forms the methods and the trainer need. Every function also works in one process, where
it is the identity, so that no caller has to ask. N ranks on different shards then equal one process on the joined batch.

Convention for gradients: the trainer averages parameter gradients over ranks (as DDP does). A loss that is a mean over the
rank's own samples therefore needs nothing more. A loss of global statistics is computed alike on every rank from
``all_reduce_sum`` or ``all_gather_rows`` (both differentiable), and each rank's backward then carries the whole loss: its
averaged gradient equals the one-process gradient.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def is_main() -> bool:
    return rank() == 0


@contextmanager
def main_first() -> Iterator[None]:
    """The first process goes through the block before the others do: it fills a cache that they then read."""
    if is_distributed() and not is_main():
        dist.barrier()
    yield
    if is_distributed() and is_main():
        dist.barrier()


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; the backward pass sums the gradients over ranks, since every rank's loss depends on every input."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


class _AllGatherRows(torch.autograd.Function):
    """Rows of every rank, in rank order; the backward pass sums over ranks and keeps the own rows."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Differentiable sum over ranks (any shape, equal on all ranks)."""
    return _AllReduceSum.apply(tensor) if is_distributed() else tensor


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Differentiable mean over ranks."""
    return all_reduce_sum(tensor) / world_size()


def all_gather_rows(tensor: Tensor) -> Tensor:
    """Differentiable concatenation of ``[rows, …]`` over ranks; every rank gives the same number of rows."""
    return _AllGatherRows.apply(tensor) if is_distributed() else tensor


def is_shared_out(tensor: Any) -> bool:
    """True if each process holds a part of it (``training.machine.sharding``): it is a DTensor, whose module takes long to
    import."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def own_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor: its part of one that is shared out, else the tensor itself. Changes in place
    change the tensor."""
    return [tensor.to_local() if is_shared_out(tensor) else tensor for tensor in tensors]


@torch.no_grad()
def whole(state: Any) -> Any:
    """A state dict with every shared-out tensor gathered, on the CPU; without such tensors, itself. All processes call it
    together, and each gets all of it."""
    if isinstance(state, dict):
        gathered = {name: whole(value) for name, value in state.items()}
        return state if all(gathered[name] is value for name, value in state.items()) else gathered
    return state.full_tensor().cpu() if is_shared_out(state) else state


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each tensor ``[n]``; of shared-out ones, which all of them are or none, the whole tensor's. Asks nothing
    back from the device."""
    found = torch.stack(torch._foreach_norm(own_parts(tensors)))
    return all_reduce_sum(found.square()).sqrt() if is_shared_out(tensors[0]) else found
